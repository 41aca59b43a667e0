package com.example.interop

import com.fasterxml.jackson.core.JsonGenerator
import com.fasterxml.jackson.core.JsonParser
import com.fasterxml.jackson.databind.DeserializationContext
import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.ObjectMapper
import com.fasterxml.jackson.databind.SerializerProvider
import com.fasterxml.jackson.databind.deser.std.StdDeserializer
import com.fasterxml.jackson.databind.module.SimpleModule
import com.fasterxml.jackson.databind.ser.std.StdSerializer
import com.fasterxml.jackson.module.kotlin.jacksonObjectMapper
import java.time.Instant
import java.time.LocalDateTime
import java.time.ZoneOffset

/**
 * The JSON between the tests and this peer.
 *
 * Times are pairs of numbers, `[second since 1970, nanosecond]`, so that no test depends on how either side writes
 * times as text. A local time counts as if its zone were UTC. The time that stands for "never" is null.
 */
object Wire {
    /** The last event of a user that had none. It is in no row: every stored state follows an event. */
    val NEVER: LocalDateTime = LocalDateTime.MIN

    val mapper: ObjectMapper = jacksonObjectMapper().registerModule(
        SimpleModule()
            .addSerializer(LocalDateTime::class.java, LocalTimeWriter)
            .addDeserializer(LocalDateTime::class.java, LocalTimeReader)
            .addSerializer(Instant::class.java, InstantWriter)
            .addDeserializer(Instant::class.java, InstantReader),
    )

    fun instant(pair: JsonNode): Instant = Instant.ofEpochSecond(pair[0].longValue(), pair[1].longValue())

    private fun write(generator: JsonGenerator, second: Long, nano: Int) {
        generator.writeStartArray()
        generator.writeNumber(second)
        generator.writeNumber(nano)
        generator.writeEndArray()
    }

    private object LocalTimeWriter : StdSerializer<LocalDateTime>(LocalDateTime::class.java) {
        private fun readResolve(): Any = LocalTimeWriter

        override fun serialize(time: LocalDateTime, generator: JsonGenerator, provider: SerializerProvider) {
            if (time == NEVER) generator.writeNull()
            else write(generator, time.toEpochSecond(ZoneOffset.UTC), time.nano)
        }
    }

    private object LocalTimeReader : StdDeserializer<LocalDateTime>(LocalDateTime::class.java) {
        private fun readResolve(): Any = LocalTimeReader

        override fun deserialize(parser: JsonParser, context: DeserializationContext): LocalDateTime =
            LocalDateTime.ofInstant(instant(parser.readValueAsTree()), ZoneOffset.UTC)
    }

    private object InstantWriter : StdSerializer<Instant>(Instant::class.java) {
        private fun readResolve(): Any = InstantWriter

        override fun serialize(instant: Instant, generator: JsonGenerator, provider: SerializerProvider) =
            write(generator, instant.epochSecond, instant.nano)
    }

    private object InstantReader : StdDeserializer<Instant>(Instant::class.java) {
        private fun readResolve(): Any = InstantReader

        override fun deserialize(parser: JsonParser, context: DeserializationContext): Instant =
            instant(parser.readValueAsTree())
    }
}
