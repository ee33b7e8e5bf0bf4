"""Train a small network on scikit-learn's 1,797 images of digits, and export it: `python train_network.py`."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

torch.manual_seed(0)
images, digits = load_digits(return_X_y=True)
seen, unseen, seen_digits, unseen_digits = (
    torch.from_numpy(part) for part in train_test_split(images, digits, test_size=0.2, random_state=0)
)
network = nn.Sequential(
    *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten()),
    *(nn.Linear(16 * 64, 32), nn.ReLU(), nn.Linear(32, 10), nn.Softmax(dim=1)),
)
optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
for _ in range(60):
    loss = nn.functional.nll_loss(torch.log(network(seen.float()) + 1e-9), seen_digits)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
network.eval()
right = (network(unseen.float()).argmax(1) == unseen_digits).float().mean().item()
# Of any batch size: without the dynamic first axis, the program would take the example's alone.
batch = ({0: torch.export.Dim("batch")},)
torch.export.save(torch.export.export(network, (torch.zeros(2, 64),), dynamic_shapes=batch), "network.pt2")
print(f"network.pt2: {right:.1%} of {len(unseen)} images it has not seen")
