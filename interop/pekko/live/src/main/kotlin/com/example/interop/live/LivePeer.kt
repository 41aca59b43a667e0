package com.example.interop.live

import com.example.interop.Command
import com.example.interop.Wire
import com.example.interop.atOnce
import com.example.interop.peerConfig
import com.example.interop.serializationCommands
import com.example.interop.serve
import com.example.persistdurable.model.UserState
import com.fasterxml.jackson.databind.JsonNode
import com.typesafe.config.ConfigFactory
import org.apache.pekko.persistence.typed.PersistenceId
import java.time.Instant
import java.time.LocalDateTime
import java.time.ZoneId
import java.util.concurrent.CompletionStage
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.atomic.AtomicInteger

/** The nodes of this peer, each on a database of its own or together on one, and their live queries. */
private class Live {
    private class Opened(val node: Node) {
        val store = Store(node.system)
        val feeds = ConcurrentHashMap<String, Feed>()
    }

    private val nodes = ConcurrentHashMap<String, Opened>()
    private val opened = AtomicInteger()

    fun commands(): Map<String, Command> = mapOf(
        "open" to atOnce(::open),
        "close" to { closing -> nodes.remove(closing.text("node"))!!.node.close().thenApply { null } },
        "start" to ::start,
        "login" to asked { UserCommand.Login(instant(), it) },
        "cart" to asked { UserCommand.UseCart(instant(), it) },
        "view" to asked { UserCommand.ViewProduct(text("product"), instant(), it) },
        "opt-in" to asked { UserCommand.SetMarketingOptIn(get("opt_in").booleanValue(), instant(), it) },
        "get" to asked { UserCommand.Get(it) },
        "delete" to asked { UserCommand.Delete(it) },
        "stop" to { order -> order.node().stop(order.text("actor")).thenApply(::describe) },
        "load" to { order -> order.store().load(order.text("persistence_id")).thenApply(::describe) },
        "upsert" to { order ->
            val state = Wire.mapper.treeToValue(order["state"], UserState::class.java)
            order.store().upsert(order.text("persistence_id"), order.revision(), state, order.text("tag"))
                .thenApply { null }
        },
        "delete-object" to { order ->
            order.store().delete(order.text("persistence_id"), order.revision()).thenApply { null }
        },
        "current-changes" to { query -> query.store().currentChanges(query) },
        "changes-start" to atOnce { query ->
            val feed = query.text("feed")
            check(query.opened().feeds.putIfAbsent(feed, query.store().changes(query)) == null) {
                "there is a feed $feed already"
            }
            null
        },
        "changes-take" to { order -> order.feed().take(order["millis_max"].longValue()) },
        "changes-stop" to { order -> order.feed().stop().thenApply { null } },
        "persistence-ids" to { query ->
            query.store().persistenceIds(query["after"]?.textValue(), query["limit"]?.longValue())
        },
    )

    /** A new actor system on a database. `config` is what the application has set beside. */
    private fun open(order: JsonNode): Map<String, String> {
        val name = "node-${opened.incrementAndGet()}"
        val settings = listOf("host", "port", "database", "user", "password")
            .associate { "pekko.persistence.r2dbc.connection-factory.$it" to order.text(it) }
        val config = ConfigFactory.parseString(order.text("config"))
            .withFallback(ConfigFactory.parseMap(settings))
            .withFallback(ConfigFactory.parseResources("live.conf"))
            .withFallback(peerConfig())
        nodes[name] = Opened(Node(name, config.resolve()))
        return mapOf("node" to name)
    }

    /** A new actor; answers what it recovered. */
    private fun start(order: JsonNode): CompletionStage<Map<String, Any?>> {
        val entityId = order.text("entity_id")
        val hint = order["type_hint"]?.textValue()
        val persistenceId =
            if (hint == null) PersistenceId.ofUniqueId(entityId) else PersistenceId.of(hint, entityId)
        val onWriteFailure = OnWriteFailure.valueOf(order.text("on_write_failure"))
        val empty = EmptyState.valueOf(order.text("empty_state"))
        val behavior = UserBehavior.create(persistenceId, entityId, order.text("tag"), empty, onWriteFailure)
        return order.node().start(order.text("actor"), behavior).thenApply(::describe)
    }

    private fun asked(command: JsonNode.(org.apache.pekko.actor.typed.ActorRef<Answer>) -> UserCommand): Command =
        { order -> order.node().ask(order.text("actor")) { order.command(it) }.thenApply(::describe) }

    /** What an actor or the store holds: local times in the state, and as the instants that Java takes them for. */
    private fun describe(seen: Seen): Map<String, Any?> = mapOf(
        "revision" to seen.revision,
        "state" to seen.state,
        "instants" to seen.state?.let { state ->
            listOf(state.lastLogin, state.lastCartUsedTime, state.lastEventTime).map(::instant)
        },
    )

    private fun instant(local: LocalDateTime?): Instant? =
        local?.takeIf { it != Wire.NEVER }?.atZone(ZoneId.systemDefault())?.toInstant()

    private fun JsonNode.opened() =
        nodes[text("node")] ?: throw IllegalArgumentException("there is no node ${text("node")}")

    private fun JsonNode.node() = opened().node

    private fun JsonNode.store() = opened().store

    private fun JsonNode.feed() =
        opened().feeds[text("feed")] ?: throw IllegalArgumentException("there is no feed ${text("feed")}")

    private fun JsonNode.text(field: String): String =
        get(field)?.textValue() ?: throw IllegalArgumentException("a request without text $field")

    private fun JsonNode.revision() = get("revision").longValue()

    private fun JsonNode.instant() = Wire.instant(get("at"))
}

fun main(): Unit = serve(serializationCommands() + Live().commands())
