r"""A purifier that draws: noise, and then the denoiser of the other example.

python examples/stochastic_purifier.py   (after examples/train.py)
bench run --defense examples/stochastic_purifier.py:noisy --set defense.sigma=0.2 \
    --classifier examples/classifier_with_weights.py:classifier --attack apgd --eps 0.1
"""

from classifier_with_weights import classifier
from purifier_with_weights import purifier
from torch import Tensor

from bench import api

denoise = purifier()


def noisy(x: Tensor, *, rng: api.Rng, sigma: float = 0.3) -> Tensor:
    """Clean x (N, C, H, W): noise from ``rng`` is an image's own, whatever its batch."""
    return denoise(x + sigma * rng.normal_like(x))


if __name__ == "__main__":
    for sigma in (0.1, 0.3):
        settings = {"defense": {"sigma": sigma}, "attack": {"steps": 20, "eot": 5}}
        print(
            api.evaluate(
                noisy, classifier(), dataset="digits", eps="0.1", n=50, settings=settings
            )
        )
