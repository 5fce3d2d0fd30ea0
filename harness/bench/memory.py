"""Keys and values that later pieces ask for, by chain and layer: written by one thread, read by others as they come.

A thread that reads the next piece of a text follows the one before it layer by layer, a moment behind: so several
threads share one long text.
"""

import threading
from dataclasses import dataclass

import torch

Pair = tuple[torch.Tensor, torch.Tensor]


class StoppedError(Exception):
    """Another thread failed; what this one waits for will not come."""


@dataclass
class _Layer:
    key_BKTd: torch.Tensor
    value_BKTd: torch.Tensor
    filled: int = 0


class Memory:
    """Chains of tokens: for each and each layer, keys and values [1, K, T, d]."""

    def __init__(self) -> None:
        self._chains: dict[int, dict[int, _Layer]] = {}
        self._progress = threading.Condition()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._chains)

    def write(self, chain: int, layer: int, start: int, capacity: int, pair: Pair) -> None:
        """Put keys and values [1, K, T, d] to `start` in a chain that is to hold `capacity` tokens.

        A chain fills from its beginning: what comes before `start` must be there, or readers would be let at it.
        """
        layers = self._chains.setdefault(chain, {})
        if layer not in layers:
            layers[layer] = _Layer(*(one.new_empty(1, one.shape[1], capacity, one.shape[-1]) for one in pair))
        kept, end = layers[layer], start + pair[0].shape[2]
        assert start <= kept.filled, f"chain {chain} has {kept.filled} tokens in layer {layer}, not {start}"
        kept.key_BKTd[:, :, start:end] = pair[0]
        kept.value_BKTd[:, :, start:end] = pair[1]
        with self._progress:
            kept.filled = max(kept.filled, end)
            self._progress.notify_all()

    def read(self, chain: int, layer: int, length: int) -> Pair:
        """The first `length` keys and values of a chain, once they are there.

        Raises StoppedError when reading was stopped.
        """

        def there() -> bool:
            kept = self._chains.get(chain, {}).get(layer)
            return self._stopped or (kept is not None and kept.filled >= length)

        with self._progress:
            self._progress.wait_for(there)
            if self._stopped:
                raise StoppedError
        kept = self._chains[chain][layer]
        return kept.key_BKTd[:, :, :length], kept.value_BKTd[:, :, :length]

    def layers(self, chain: int) -> dict[int, Pair]:
        """A whole chain, by layer."""
        return {layer: (kept.key_BKTd, kept.value_BKTd) for layer, kept in self._chains[chain].items()}

    def forget(self, chain: int) -> None:
        self._chains.pop(chain, None)

    def stop(self, stopped: bool = True) -> None:
        """Let nobody wait any longer; with False, reading may go on."""
        with self._progress:
            self._stopped = stopped
            self._progress.notify_all()

    def clear(self) -> None:
        self._chains.clear()
