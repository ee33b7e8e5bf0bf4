"""What MLServer serves: nearest neighbours among scikit-learn's images of digits, which it learns when it starts."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier


class Digits(MLModel):
    """Tells the digits of images of 64 pixels."""

    async def load(self) -> bool:
        """Learn every other image."""
        images, digits = load_digits(return_X_y=True)
        self._neighbors = KNeighborsClassifier(3).fit(images[::2], digits[::2])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Tell the digit of each row."""
        digits = self._neighbors.predict(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("digit", digits)])
