"""The sensor that labels what is put into the watched folder: a new folder is a new domain, a changed one runs again.

Off until it is switched on, and idle until the profile names a folder (`watch`). How a folder is looked at is said in
warehouse/intake/watching.py. An arrival is released with the next night, and not by itself.
"""

import json
from dataclasses import asdict

import dagster as dg

from assets.alerts import about
from assets.jobs import label_domain
from assets.partitions import domains
from assets.resources import Factory
from assets.tags import ARRIVED
from rankmill.notify import Alert
from warehouse.intake.watching import Look, NothingToWatch, Seen, look


@dg.sensor(job=label_domain, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.STOPPED)
def arrivals(context: dg.SensorEvaluationContext, factory: Factory) -> dg.SensorResult:
    """Labels a source folder that was put below the profile's `watch`, or changed there, once it stands still."""
    profile = factory.settings.profile_that_buys_nothing
    if profile.watch is None:
        return dg.SensorResult(skip_reason="the profile names no folder to watch (watch: /path/to/folder)")
    known = {name: Seen(**seen) for name, seen in json.loads(context.cursor or "{}").items()}
    try:
        found = look(profile.watch, known, factory.registry.active(), profile.seed)
    except NothingToWatch as error:
        return dg.SensorResult(skip_reason=str(error))
    for name, fault in found.faults.items():
        if known.get(name) != found.known[name]:
            about(factory, context.log, Alert(f"the folder {name} waits until it is mended", fault))
    cursor = json.dumps({name: asdict(seen) for name, seen in found.known.items()})
    if found.arrived is None:
        return dg.SensorResult(skip_reason=_idle(found), cursor=cursor)
    source, content = found.arrived.source, found.arrived.content
    factory.registry.add(source)
    request = dg.RunRequest(
        # A content that was there before is another arrival when the files have changed since.
        run_key=f"{source.domain}/{content[:16]}/{found.arrived.files}",
        partition_key=source.domain,
        tags={ARRIVED: content},
    )
    return dg.SensorResult(
        run_requests=[request], dynamic_partitions_requests=[domains.build_add_request([source.domain])], cursor=cursor
    )


def _idle(found: Look) -> str:
    told = [f"{name} waits until it is mended: {fault}" for name, fault in found.faults.items()]
    return "\n".join(told) or f"nothing new in {len(found.known)} folders"
