package com.example.persistdurable.model

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode
import org.apache.pekko.serialization.jackson.JacksonMigration

/** Makes version 2 of [UserState] out of version 1: a stored state counts as one visit. */
class VersionTwoMigration : JacksonMigration() {
    override fun currentVersion() = 2

    override fun transform(fromVersion: Int, json: JsonNode): JsonNode {
        if (fromVersion < 2) {
            val fields = json as ObjectNode
            fields.set<JsonNode>("optedIn", fields.remove("marketingOptIn"))
            fields.put("visits", 1)
        }
        return json
    }
}
