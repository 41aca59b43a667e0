package com.example.interop.live

import com.example.interop.Wire
import com.example.persistdurable.model.UserState
import com.fasterxml.jackson.databind.JsonNode
import org.apache.pekko.actor.typed.ActorSystem
import org.apache.pekko.persistence.query.DeletedDurableState
import org.apache.pekko.persistence.query.DurableStateChange
import org.apache.pekko.persistence.query.NoOffset
import org.apache.pekko.persistence.query.Offset
import org.apache.pekko.persistence.query.TimestampOffset
import org.apache.pekko.persistence.query.UpdatedDurableState
import org.apache.pekko.persistence.r2dbc.state.javadsl.R2dbcDurableStateStore
import org.apache.pekko.persistence.state.DurableStateStoreRegistry
import org.apache.pekko.stream.javadsl.Sink
import java.time.Instant
import java.util.Optional
import java.util.concurrent.CompletionStage

/** The plugin's store, asked without an actor between. */
class Store(private val system: ActorSystem<*>) {
    @Suppress("UNCHECKED_CAST")
    private val store = DurableStateStoreRegistry.get(system).getDurableStateStoreFor(
        R2dbcDurableStateStore::class.java, "pekko.persistence.r2dbc.state",
    ) as R2dbcDurableStateStore<UserState>

    fun load(persistenceId: String): CompletionStage<Seen> =
        store.getObject(persistenceId).thenApply { Seen(it.revision(), it.value().orElse(null)) }

    fun upsert(persistenceId: String, revision: Long, state: UserState, tag: String) =
        store.upsertObject(persistenceId, revision, state, tag)

    fun delete(persistenceId: String, revision: Long) = store.deleteObject(persistenceId, revision)

    fun currentChanges(query: JsonNode): CompletionStage<List<Map<String, Any?>>> =
        store.currentChangesBySlices(query.entityType(), query.min(), query.max(), query.offset())
            .map { describe(it) }
            .runWith(Sink.seq(), system)

    fun changes(query: JsonNode) =
        Feed(store.changesBySlices(query.entityType(), query.min(), query.max(), query.offset()), system)

    /** A page of ids where a limit is given, else all. */
    fun persistenceIds(after: String?, limit: Long?): CompletionStage<List<String>> {
        val ids = if (limit == null) store.currentPersistenceIds()
        else store.currentPersistenceIds(Optional.ofNullable(after), limit)
        return ids.runWith(Sink.seq(), system)
    }
}

/** A change as an answer shows it. A change found by looking back has no state. */
fun describe(change: DurableStateChange<UserState>): Map<String, Any?> {
    val common = mapOf("persistence_id" to change.persistenceId(), "offset" to describe(change.offset()))
    return common + when (change) {
        is UpdatedDurableState<UserState> -> mapOf(
            "revision" to change.revision(), "state" to change.value(), "deleted" to false,
        )
        is DeletedDurableState<UserState> -> mapOf("revision" to change.revision(), "state" to null, "deleted" to true)
        else -> throw IllegalStateException("a change of class ${change.javaClass.name}")
    }
}

private fun describe(offset: Offset): Map<String, Any?> {
    val timestamp = offset as TimestampOffset
    return mapOf("timestamp" to timestamp.timestamp(), "seen" to timestamp.getSeen())
}

private fun JsonNode.entityType() = get("entity_type").textValue()

private fun JsonNode.min() = get("min").intValue()

private fun JsonNode.max() = get("max").intValue()

/** From the beginning where no offset is given. */
private fun JsonNode.offset(): Offset {
    val offset = get("offset")
    if (offset == null || offset.isNull) return NoOffset.getInstance()
    val seen = offset["seen"].properties().map { (id, revision) -> scala.Tuple2<String, Any>(id, revision.longValue()) }
    val seenByScala = scala.collection.immutable.Map.from(scala.jdk.javaapi.CollectionConverters.asScala(seen))
    return TimestampOffset(Wire.instant(offset["timestamp"]), Instant.EPOCH, seenByScala)
}
