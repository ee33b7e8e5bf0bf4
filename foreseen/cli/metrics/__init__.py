"""`foreseen metrics`: what the servers know, for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import click

from foreseen.errors import Misconfigured

if TYPE_CHECKING:
    from foreseen.cache import Cache
    from foreseen.settings import Settings

__all__ = ["metrics"]

#: Free of what Prometheus' own list of exporters names for anything that is likely to run beside.
_PORT: Final = 9464


@click.command(short_help="Serve metrics of the whole deployment to Prometheus.")
@click.option("--port", default=_PORT, show_default=True, type=click.IntRange(1, 65535), help="Where to listen.")
@click.option("--address", default="127.0.0.1", show_default=True, help="0.0.0.0 is every address of this machine.")
@click.option("--once", is_flag=True, help="Print them once instead, and exit.")
def metrics(port: int, address: str, *, once: bool) -> None:
    """Serve metrics at /metrics, until Ctrl-C: of all producers and workers, the queues and both servers.

    One process for a deployment: producers and workers tell the cache what they count and measure, and this asks the
    cache and the broker each time that it is asked. It needs no more than that both can be reached; while one does
    not answer, it says so (foreseen_server_up) and tells what the other knows.

    \b
    Examples:
      foreseen metrics
      foreseen metrics --address 0.0.0.0 --port 9464
      foreseen metrics --once | grep queue
    """  # noqa: D301 - click reads the character that \b stands for
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.exposition import start_http_server
    except ModuleNotFoundError:
        raise Misconfigured("metrics need prometheus_client: pip install 'foreseen[metrics]'") from None
    from foreseen.cli.deployment import open_cache, read_settings

    settings = read_settings()
    registry = CollectorRegistry()
    with open_cache(settings) as cache:
        registry.register(_Collector(cache, settings))
        if once:
            click.echo(generate_latest(registry).decode(), nl=False)
            return
        try:
            server, thread = start_http_server(port, address, registry)
        except OSError as error:
            raise Misconfigured(
                f"cannot listen on {address}:{port}: {error.strerror}; choose another --port"
            ) from error
        click.echo(f"metrics: http://{address}:{server.server_port}/metrics")
        try:
            thread.join()
        except KeyboardInterrupt:  # how it is meant to end
            server.shutdown()


class _Collector:
    """Asks the servers at each scrape; scrapes that come at once wait for each other."""

    def __init__(self, cache: Cache, settings: Settings) -> None:
        self._cache = cache
        self._settings = settings
        self._lock = threading.Lock()
        self._known: list[str] = []

    def describe(self) -> Iterable[Any]:
        """Return nothing: what there is depends on what is served; without this, registering would collect."""
        return ()

    def collect(self) -> Iterable[Any]:
        """Return what is known now."""
        from foreseen.cli.metrics.families import families
        from foreseen.cli.metrics.gather import gather

        with self._lock:
            facts = gather(self._cache, self._settings, self._known)
            if facts.cache is not None:
                self._known = list(facts.cache.models)
        return families(facts)
