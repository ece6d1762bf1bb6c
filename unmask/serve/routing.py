"""Ray Serve's request router of our replicas: requests that begin alike go to the same one, where load allows.

Ray imports it by the name that `deploy` gives, in each of its proxies. The keys come in the header that Ray reads as a
session's id: front.py writes them there. Without them, or where the replicas share nothing (`Replica.record_routing_stats`),
a request goes to the least busy replica.
"""

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from unmask.serve.affinity import SHARES, Homes


class PrefixRouter(RequestRouter):  # type: ignore[misc] # Ray says no types
    """Replicas by what a request begins with."""

    def initialize_state(self, *, slack: int) -> None:
        """`slack` as in `Homes`."""
        self._homes = Homes(slack=slack)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replica to be asked first, and then any."""
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # where all of them are full
        lengths = self.replica_queue_len_cache
        named = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        load = {name: lengths.get(replica.replica_id) or 0 for name, replica in named.items()}
        session = pending_request.metadata.session_id
        shares = any((replica.routing_stats or {}).get(SHARES) for replica in candidate_replicas)
        chosen = named[self._homes.choose(session.split(".") if session and shares else [], load)]
        return [[chosen], [replica for replica in candidate_replicas if replica is not chosen]]
