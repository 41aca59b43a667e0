package com.example.persistdurable.model

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode
import org.apache.pekko.serialization.jackson.JacksonMigration

/** Lets version 1 of [UserState] read what version 2 wrote, as during a rolling upgrade. */
class ForwardMigration : JacksonMigration() {
    override fun currentVersion() = 1

    override fun supportedForwardVersion() = 2

    override fun transform(fromVersion: Int, json: JsonNode): JsonNode {
        if (fromVersion == 2) {
            val fields = json as ObjectNode
            fields.set<JsonNode>("marketingOptIn", fields.remove("optedIn"))
            fields.remove("visits")
        }
        return json
    }
}
