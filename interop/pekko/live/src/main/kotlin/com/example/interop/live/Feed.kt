package com.example.interop.live

import com.example.persistdurable.model.UserState
import org.apache.pekko.Done
import org.apache.pekko.NotUsed
import org.apache.pekko.actor.typed.ActorSystem
import org.apache.pekko.persistence.query.DurableStateChange
import org.apache.pekko.stream.KillSwitches
import org.apache.pekko.stream.javadsl.Keep
import org.apache.pekko.stream.javadsl.Source
import org.apache.pekko.stream.javadsl.Sink
import java.util.concurrent.CompletableFuture
import java.util.concurrent.CompletionStage
import java.util.concurrent.TimeUnit

/** The most changes that wait to be taken; the query fails beyond them. */
private const val WAITING_MAX = 100_000

/** A live query that runs until it is stopped, and what it brought since somebody looked. */
class Feed(source: Source<DurableStateChange<UserState>, NotUsed>, system: ActorSystem<*>) {
    private val waiting = ArrayList<Map<String, Any?>>()
    private var arrival = CompletableFuture<Unit>()
    private val running = source
        .viaMat(KillSwitches.single(), Keep.right())
        .toMat(Sink.foreach { change -> add(describe(change)) }, Keep.both())
        .run(system)

    private val end: CompletionStage<Done> = running.second()

    init {
        end.whenComplete { _, _ -> arrived() }
    }

    /** What came, once anything has; nothing when this long nothing came, and an error when the query failed. */
    fun take(millisMax: Long): CompletionStage<List<Map<String, Any?>>> =
        nextArrival().completeOnTimeout(Unit, millisMax, TimeUnit.MILLISECONDS).thenCompose {
            val taken = drain()
            if (taken.isEmpty() && end.toCompletableFuture().isDone) end.thenApply { emptyList() }
            else CompletableFuture.completedFuture(taken)
        }

    fun stop(): CompletionStage<Done> {
        running.first().shutdown()
        return end
    }

    @Synchronized
    private fun nextArrival(): CompletableFuture<Unit> =
        if (waiting.isEmpty() && !end.toCompletableFuture().isDone) arrival.copy()
        else CompletableFuture.completedFuture(Unit)

    @Synchronized
    private fun add(change: Map<String, Any?>) {
        check(waiting.size < WAITING_MAX) { "nobody takes the changes" }
        waiting += change
        arrived()
    }

    @Synchronized
    private fun arrived() {
        arrival.complete(Unit)
        arrival = CompletableFuture()
    }

    @Synchronized
    private fun drain(): List<Map<String, Any?>> = waiting.toList().also { waiting.clear() }
}
