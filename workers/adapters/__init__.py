"""Adapters: bases of models that a framework computes, each in a module and under an extra of its own.

    workers.adapters.onnx              OnnxModel            foreseen[onnx]
    workers.adapters.sklearn           SklearnModel         foreseen[sklearn]
    workers.adapters.torch             TorchModel           foreseen[torch]
    workers.adapters.transformers      PipelineModel        foreseen[transformers]
    workers.adapters.open_inference    OpenInferenceModel   foreseen[open-inference]

No framework is imported before a model loads.
"""
