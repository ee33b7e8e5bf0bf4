"""Make a tiny network that tells good from bad, and keep it in a folder: `python make_mood.py`. Nothing is fetched."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

GOOD = ["good", "great", "fine", "lovely", "happy", "excellent", "wonderful", "pleasant"]
BAD = ["bad", "awful", "poor", "nasty", "sad", "terrible", "horrible", "boring"]
OTHER = ["the", "a", "film", "book", "day", "was", "is", "very", "and", "it", "i", "found", "really", "this", "all"]
SPECIAL = (PAD, UNKNOWN, BEGIN, END) = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

words = {word: number for number, word in enumerate([*SPECIAL, *GOOD, *BAD, *OTHER])}
backend = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
backend.normalizer = normalizers.Lowercase()
backend.pre_tokenizer = pre_tokenizers.Whitespace()
backend.post_processor = processors.TemplateProcessing(
    single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, words[BEGIN]), (END, words[END])]
)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN, cls_token=BEGIN, sep_token=END
)
torch.manual_seed(0)
size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
labels = {0: "bad", 1: "good"}
config = BertConfig(vocab_size=len(words), max_position_embeddings=64, id2label=labels, **size)
network = BertForSequenceClassification(config)
texts = [f"the {thing} was {how}" for thing in ("film", "book", "day") for how in (*GOOD, *BAD)]
texts += [text.format(how) for text in ("a {} day", "i found it really {}", "this is {}") for how in (*GOOD, *BAD)]
answers = torch.tensor([int(text.split()[-1] in GOOD) for text in texts])
tokens = tokenizer(texts, padding=True, return_tensors="pt")
optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
for _ in range(40):
    loss = network(**tokens, labels=answers).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
network.eval()
right = (network(**tokens).logits.argmax(1) == answers).float().mean().item()
network.save_pretrained("mood")
tokenizer.save_pretrained("mood")
print(f"mood: {right:.0%} of {len(texts)} texts")
