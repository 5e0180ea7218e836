"""A run on one page: store → figures → snapshot → one HTML file, or the same page from a server on this machine.

    python -m nas.report [RUN]            writes one self-contained file that works offline
    python -m nas.report [RUN] --serve    shows a running search, read only, on 127.0.0.1

In goes a run's store, read only, also while a search writes it. `snapshot` makes everything that the page shows, as
plain data, and is the contract between the two sides; `page.render` puts it into HTML that asks nothing of any network.
The same store gives the same bytes. Nothing here changes a run, and no text that a model wrote is ever markup.
"""

from nas.report.snapshot import CONTRACT, snapshot

__all__ = ["CONTRACT", "snapshot"]
