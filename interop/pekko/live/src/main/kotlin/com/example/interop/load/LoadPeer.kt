package com.example.interop.load

import com.example.interop.Wire
import com.example.interop.answering
import com.example.interop.describe
import com.example.interop.peerConfig
import com.fasterxml.jackson.module.kotlin.readValue
import com.typesafe.config.ConfigFactory
import java.util.SplittableRandom
import java.util.concurrent.CompletableFuture

/** How many callers find out what Pekko can do, before it is asked for a part of that. */
private const val CAPACITY_CALLERS = 1_000

/** How many users warm up connections and statements before others are recovered, at most. */
private const val WARM_UP_USERS = 2_000

/** How long a machine that has just started is used, untimed, since Java compiles what is in use while it runs. */
private const val WARM_UP_NANOS = 5_000_000_000L

/** What is not measured, for a reason that is told. */
private class NotRun(reason: String) : RuntimeException(reason)

/** Measures Pekko as the benchmark asks. Users stay in memory until others are asked for, as they do elsewhere. */
private class LoadPeer : AutoCloseable {
    /** The system that is open. */
    private var users: Users? = null

    /** Whose users are all in memory. */
    private var alive: Any? = null

    private var isWarm = false

    fun answerTo(line: String): Map<String, Any?> =
        try {
            answerTo(Wire.mapper.readValue<Question>(line))
        } catch (reason: NotRun) {
            mapOf("not_run" to reason.message)
        } catch (error: Exception) {
            error.printStackTrace()
            mapOf("not_run" to describe(error).values.joinToString(": "))
        }

    private fun answerTo(question: Question): Map<String, Any?> = when (question.work) {
        "write" -> closedLoop(question, evenly(question.users))
        "read" -> closedLoop(question, evenly(question.users))
        "mix" -> closedLoop(question, skewed(question.users))
        "recover" -> recover(question)
        "latency" -> latency(question)
        "read-rate" -> readRate(question)
        "start-up" -> startUp(question)
        else -> throw NotRun("Pekko is not asked for ${question.work}")
    }

    private fun closedLoop(question: Question, choice: Choice): Map<String, Any?> {
        warmUp(question)
        val requests = Requests(choice, question.percent)
        val seen = closedLoop(live(question), requests, question.callers, question.timing())
        return seen.figures.over(seen.nanos)
    }

    /** Nobody else has to compile; so that this is not what is measured. */
    private fun warmUp(question: Question) {
        if (isWarm) return
        val half = Requests(evenly(question.users), readsPercent = 50)
        closedLoop(live(question), half, CAPACITY_CALLERS, Timing(0, WARM_UP_NANOS))
        isWarm = true
    }

    private fun latency(question: Question): Map<String, Any?> {
        warmUp(question)
        val users = live(question)
        val choice = evenly(question.users)
        val most = closedLoop(users, Requests(choice, 0), CAPACITY_CALLERS, question.timing())
        val capacity = most.figures.perSecond(most.nanos)
        val rate = capacity * question.percent / 100
        check(rate > 0) { "nothing was answered" }
        val figures = openLoop(users, choice, rate, question.timing())
        return figures.over(question.timing().measuredNanos, mapOf("capacity" to capacity, "rate" to rate))
    }

    private fun readRate(question: Question): Map<String, Any?> {
        warmUp(question)
        check(question.rate > 0) { "a rate is needed" }
        return fixedRate(live(question), evenly(question.users), question.rate, question.timing())
    }

    private fun recover(question: Question): Map<String, Any?> {
        warmUp(question)
        // Two systems on one database would take turns at its rows.
        close()
        // Neighbours in the table are not asked for together, as they would not be in use.
        val shuffled = (0 until question.users).shuffled().toIntArray()
        val warmUp = minOf(WARM_UP_USERS, question.users / 10)
        val users = open(question)
        users.bringToLife(shuffled.copyOfRange(0, warmUp))
        val cold = shuffled.copyOfRange(warmUp, shuffled.size)
        return recovery(users, cold, question.callers, question.timing().measuredNanos).also { close() }
    }

    /** The system is opened and asked for one thing; whoever started this process takes the time. */
    private fun startUp(question: Question): Map<String, Any?> {
        close()
        val answered = CompletableFuture<Boolean>()
        open(question).ask(0, command(SplittableRandom())) { answered.complete(it) }
        check(answered.join()) { "the first command failed" }
        return emptyMap()
    }

    /** The system on this database, with all of its users in memory. */
    private fun live(question: Question): Users {
        users?.let { if (alive == question.system()) return it }
        close()
        return open(question).also {
            it.bringToLife(IntArray(question.population) { user -> user })
            alive = question.system()
        }
    }

    private fun open(question: Question): Users {
        val settings = when (question.contender) {
            "pekko" -> "load"
            "pekko-tuned" -> "load-tuned"
            else -> throw NotRun("there is no contender ${question.contender} here")
        }
        val config = question.database()
            .withFallback(ConfigFactory.parseResources("$settings.conf"))
            .withFallback(peerConfig())
        return Users(config.resolve(), question.population).also { users = it }
    }

    override fun close() {
        alive = null
        users?.close()
        users = null
    }
}

fun main(): Unit = answering { output ->
    LoadPeer().use { peer ->
        System.`in`.bufferedReader().forEachLine { line ->
            output.println(Wire.mapper.writeValueAsString(peer.answerTo(line)))
            output.flush()
        }
    }
}
