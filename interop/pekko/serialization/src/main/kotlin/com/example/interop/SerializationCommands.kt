package com.example.interop

import com.example.persistdurable.model.UserState
import com.fasterxml.jackson.databind.JsonNode
import com.typesafe.config.Config
import com.typesafe.config.ConfigFactory
import org.apache.pekko.actor.ActorSystem
import org.apache.pekko.persistence.Persistence
import org.apache.pekko.persistence.typed.PersistenceId
import org.apache.pekko.serialization.SerializationExtension
import org.apache.pekko.serialization.SerializerWithStringManifest
import java.util.concurrent.ConcurrentHashMap

private const val JSON = 31
private const val CBOR = 33

/** How a state is serialized: by which serializer, set up how. */
private enum class Form(val serializer: Int, val settings: String) {
    /** As Pekko does unless told otherwise: gzip above 32 KiB. */
    Json(JSON, ""),
    JsonGzip(JSON, compression("jackson-json", "gzip")),
    JsonLz4(JSON, compression("jackson-json", "lz4")),
    Cbor(CBOR, ""),
    CborGzip(CBOR, compression("jackson-cbor", "gzip")),
    CborLz4(CBOR, compression("jackson-cbor", "lz4")),
}

/** Every payload is compressed, however short. */
private fun compression(binding: String, algorithm: String) =
    "pekko.serialization.jackson.$binding.compression { algorithm = $algorithm, compress-larger-than = 0 KiB }"

private val systems = ConcurrentHashMap<Form, ActorSystem>()

private fun system(form: Form): ActorSystem = systems.computeIfAbsent(form) {
    ActorSystem.create(form.name, ConfigFactory.parseString(form.settings).withFallback(peerConfig()))
}

/** What an application sets up for [UserState]. The migration is named by the system property `interop.migration`. */
fun peerConfig(): Config {
    val migration = System.getProperty("interop.migration", "")
    val migrations = if (migration.isEmpty()) "" else """
        pekko.serialization.jackson.migrations { "${UserState::class.java.name}" = "$migration" }
    """
    return ConfigFactory.parseString(migrations).withFallback(ConfigFactory.load("peer"))
}

fun serializationCommands(): Map<String, Command> = mapOf(
    "about" to atOnce { about() },
    "serialize" to atOnce { serialize(Form.valueOf(it["form"].textValue()), it["states"]) },
    "deserialize" to atOnce { deserialize(it["payloads"]) },
    "ids" to atOnce { ids(it["ids"]) },
    "id-pairs" to atOnce { idPairs(it["pairs"]) },
)

/** The versions that really run. */
private fun about() = mapOf(
    "pekko" to ActorSystem.Version(),
    "jackson" to Wire.mapper.version().toString(),
    "java" to System.getProperty("java.version"),
    "zone" to java.time.ZoneId.systemDefault().id,
)

private fun serialize(form: Form, states: JsonNode): List<Any> {
    val serializer = SerializationExtension.get(system(form)).serializerByIdentity()
        .apply(form.serializer) as SerializerWithStringManifest
    return states.map { node ->
        orError {
            val state = Wire.mapper.treeToValue(node, UserState::class.java)
            val payload = mapOf(
                "serializer" to serializer.identifier(),
                "manifest" to serializer.manifest(state),
                "bytes" to serializer.toBinary(state),
            )
            mapOf("payload" to payload)
        }
    }
}

private fun deserialize(payloads: JsonNode): List<Any> {
    val serialization = SerializationExtension.get(system(Form.Json))
    return payloads.map { payload ->
        orError {
            val bytes = payload["bytes"].binaryValue()
            val state = serialization
                .deserialize(bytes, payload["serializer"].intValue(), payload["manifest"].textValue()).get()
            mapOf("state" to state as UserState)
        }
    }
}

/** What Pekko makes of whole ids: the slice of any text, and the rest where the text is an id. */
private fun ids(ids: JsonNode): List<Any> {
    val persistence = Persistence.get(system(Form.Json))
    return ids.map { node ->
        val id = node.textValue()
        mapOf(
            "slice" to persistence.sliceForPersistenceId(id),
            "unique" to orError { mapOf("id" to PersistenceId.ofUniqueId(id).id()) },
            "entity_type" to orError { mapOf("id" to PersistenceId.extractEntityType(id)) },
            "entity_id" to orError { mapOf("id" to PersistenceId.extractEntityId(id)) },
        )
    }
}

/** Pekko's ids of an entity type and an entity id each. */
private fun idPairs(pairs: JsonNode): List<Any> = pairs.map { pair ->
    orError { mapOf("id" to PersistenceId.of(pair[0].textValue(), pair[1].textValue()).id()) }
}

/** One bad element of a list is an answer of its own. */
private fun orError(element: () -> Map<String, Any?>): Map<String, Any?> =
    try {
        element()
    } catch (error: Throwable) {
        mapOf("error" to describe(error))
    }
