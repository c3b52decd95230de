"""Counts and latencies, in the text format of Prometheus. They hold no user and no item."""

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

# Upper bounds of latency buckets in seconds; the last is open.
_BOUNDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0)
_RECENT_SECONDS = 60


@dataclass(kw_only=True)
class _Latency:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    seconds: float = 0.0


class Telemetry:
    """Owned by the event loop's thread; nothing here locks."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self._latency: dict[str, _Latency] = {}
        self.counts: dict[str, int] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=20_000)

    def request(self, route: str, status: int, *, seconds: float, now: float) -> None:
        """Count a request; `route` is the path's pattern, never the path itself, which may hold a user's id."""
        key = (route, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        latency = self._latency.setdefault(route, _Latency())
        latency.buckets[bisect_left(_BOUNDS, seconds)] += 1
        latency.seconds += seconds
        self._recent.append((now, seconds))

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        self.counts[name] = self.counts.get(name, 0) + by

    def recent(self, *, now: float) -> dict[str, float]:
        """Requests a second and latency quantiles (ms) of the last minute, from at most 20,000 requests."""
        times = sorted(seconds for then, seconds in self._recent if then > now - _RECENT_SECONDS)
        if not times:
            return {"requests_per_second": 0.0, "p50_ms": math.nan, "p99_ms": math.nan}
        quantile = {q: times[min(len(times) - 1, int(q * len(times)))] for q in (0.5, 0.99)}
        return {
            "requests_per_second": len(times) / _RECENT_SECONDS,
            "p50_ms": 1e3 * quantile[0.5],
            "p99_ms": 1e3 * quantile[0.99],
        }

    def text(self) -> str:
        """All of it, as Prometheus reads it."""
        lines = ["# TYPE recsys_fed_requests_total counter"]
        for (route, status), count in sorted(self.requests.items()):
            lines.append(f'recsys_fed_requests_total{{route="{route}",status="{status}"}} {count}')
        lines.append("# TYPE recsys_fed_request_seconds histogram")
        for route, latency in sorted(self._latency.items()):
            total = 0
            for bound, count in zip((*_BOUNDS, math.inf), latency.buckets, strict=True):
                total += count
                limit = "+Inf" if math.isinf(bound) else f"{bound:g}"
                lines.append(f'recsys_fed_request_seconds_bucket{{route="{route}",le="{limit}"}} {total}')
            lines.append(f'recsys_fed_request_seconds_sum{{route="{route}"}} {latency.seconds:.6f}')
            lines.append(f'recsys_fed_request_seconds_count{{route="{route}"}} {total}')
        for name, value in sorted(self.counts.items()):
            lines += [f"# TYPE recsys_fed_{name}_total counter", f"recsys_fed_{name}_total {value}"]
        return "\n".join(lines) + "\n"
