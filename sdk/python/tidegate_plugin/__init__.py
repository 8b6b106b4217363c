"""Write Tidegate plugins in Python: a module with a function `filter`, a function `transform`, or both.

    def filter(event: Event, host: Host) -> bool: ...
    def transform(event: Event, host: Host) -> Output | list[Output]: ...

A filter's True keeps the event; False drops it, which is recorded as filtered. A transform's outputs are the requests that go out, in
order; an empty list drops the event.

Every event gets a fresh instance: nothing that a plugin leaves in memory reaches the next event.
"""

from .event import Attribute, Event, Header, Request
from .failure import Failure
from .host import Host
from .output import Output

__all__ = ["Attribute", "Event", "Failure", "Header", "Host", "Output", "Request"]
