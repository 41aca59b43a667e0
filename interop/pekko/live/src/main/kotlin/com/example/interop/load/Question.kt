package com.example.interop.load

import com.fasterxml.jackson.databind.PropertyNamingStrategies
import com.fasterxml.jackson.databind.annotation.JsonNaming
import com.typesafe.config.Config
import com.typesafe.config.ConfigFactory
import java.net.URI

/** What the benchmark asks for; its README says what each field holds. */
@JsonNaming(PropertyNamingStrategies.SnakeCaseStrategy::class)
data class Question(
    val work: String,
    val contender: String,
    val url: String,
    val callers: Int,
    val users: Int,
    val population: Int,
    val percent: Int,
    val rate: Int = 0,
    val warmUpSeconds: Double,
    val seconds: Double,
) {
    /** What has to be the same for users in memory to stay there. */
    fun system(): Any = Triple(contender, url, population)

    fun timing() = Timing(nanos(warmUpSeconds), nanos(seconds))

    /** The database as the plugin is told of it. */
    fun database(): Config {
        val url = URI(url)
        val (user, password) = requireNotNull(url.userInfo) { "a URL without a user" }.split(":", limit = 2)
        val settings = mapOf(
            "host" to url.host,
            "port" to url.port,
            "database" to url.path.removePrefix("/"),
            "user" to user,
            "password" to password,
        )
        return ConfigFactory.parseMap(settings).atPath("pekko.persistence.r2dbc.connection-factory")
    }

    private fun nanos(seconds: Double) = (seconds * 1e9).toLong()
}
