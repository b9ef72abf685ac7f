"""The serving store in Cassandra, as one gateway.

    <project>__<view>__b<version>      key -> states, extras                   dropped when two versions old
    <project>__<view>__w<fingerprint>  (key) slot, tile_start -> state, extra  wide tiles; TTL
    <project>__<view>__f<fingerprint>  (key) tile_start, slot -> state, extra  fine tiles; TTL
    <project>_current                  key -> keys, features, the columns of current_rows.py
    <project>_history                  (key) slot -> the same columns          last row of a slot; TTL
    manifest                           project -> current and previous batch version
    gaps                               project, source: events that tiles lack, until when and why
    own_events                         topic, id: events that came with a question; TTL
    stream_places                      project, source: how far a stream is, by partition
    batch_versions                     project, version: numbers that builds took

A table of states belongs to one fingerprint of its view, so states of two meanings never meet.
"""

from anabranch.stores.cassandra.batch_tables import BatchTables
from anabranch.stores.cassandra.current_rows import CurrentRows
from anabranch.stores.cassandra.own_events import OwnEventTables
from anabranch.stores.cassandra.reads import StateReads
from anabranch.stores.cassandra.tiles import TileTables


class Views(BatchTables, TileTables, StateReads, CurrentRows, OwnEventTables):
    """All that a project keeps in the serving store; holds only settings, so it can travel to workers."""
