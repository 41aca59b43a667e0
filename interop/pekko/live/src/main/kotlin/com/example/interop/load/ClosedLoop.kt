package com.example.interop.load

import java.util.SplittableRandom
import java.util.concurrent.CompletableFuture
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger
import java.util.concurrent.atomic.AtomicReference

/** How long a caller waits after an error, so that a database in trouble is not hammered. */
private const val PAUSE_AFTER_ERROR_MILLIS = 1L

/** How long is waited for every caller's first answer. One that never comes must not keep the others from counting. */
private val FIRST_ANSWERS_WITHIN = TimeUnit.SECONDS.toNanos(30)

/** What callers in a closed loop saw, and in which time. */
class Load(val figures: Figures, val nanos: Long)

/** Lets so many callers ask, each again when it is answered, for as long as the timing says at least. */
fun closedLoop(users: Users, requests: Requests, callers: Int, timing: Timing): Load {
    val figures = Figures()
    val pace = Pace(callers, timing)
    val running = List(callers) { Caller(users, requests, pace, figures) }.map { it.start() }
    CompletableFuture.allOf(*running.toTypedArray()).join()
    val window = checkNotNull(pace.window()) { "there are no callers" }
    return Load(figures, window.end - window.start)
}

/**
 * When answers begin to count, and until when; the same rule as for every other contender (`bench/src/load/callers.rs`).
 *
 * Callers queue in front of a few connections, and all of their first requests are served before any second one. So
 * counting begins when every caller was answered once, and lasts at least as long as that took.
 */
private class Pace(callers: Int, private val timing: Timing) {
    private val began = System.nanoTime()
    private val unanswered = AtomicInteger(callers)
    private val window = AtomicReference<Window?>()

    fun window(): Window? = window.get()

    fun firstAnswer(now: Long) {
        if (unanswered.decrementAndGet() == 0) open(now)
    }

    /** Nothing counts yet. */
    fun stillWaiting(now: Long) {
        if (now - began >= FIRST_ANSWERS_WITHIN) open(now)
    }

    private fun open(now: Long) {
        val start = began + maxOf(now - began, timing.warmUpNanos)
        window.compareAndSet(null, Window(start, start + maxOf(timing.measuredNanos, now - began)))
    }
}

/** One caller with at most one request on its way. */
private class Caller(
    private val users: Users,
    private val requests: Requests,
    private val pace: Pace,
    private val figures: Figures,
) {
    private val random = SplittableRandom()
    private val end = CompletableFuture<Unit>()
    private var isFirst = true

    fun start(): CompletableFuture<Unit> {
        send(System.nanoTime())
        return end
    }

    private fun send(sent: Long) = orEnd {
        users.ask(requests.choice(random), requests.next(random)) { seen -> orEnd { answered(sent, seen) } }
    }

    private fun answered(sent: Long, seen: Boolean) {
        val now = System.nanoTime()
        if (pace.window()?.holds(now) == true) {
            if (seen) figures.answered(now - sent) else figures.failed()
        }
        if (isFirst) {
            isFirst = false
            pace.firstAnswer(now)
        }
        val window = pace.window()
        if (window == null) pace.stillWaiting(now)
        when {
            window != null && now - window.end >= 0 -> end.complete(Unit)
            seen -> send(now)
            else -> CompletableFuture
                .delayedExecutor(PAUSE_AFTER_ERROR_MILLIS, TimeUnit.MILLISECONDS, users.executor)
                .execute { send(System.nanoTime()) }
        }
    }

    /** What goes wrong in a caller ends the load; nobody else would see it. */
    private inline fun orEnd(step: () -> Unit) {
        try {
            step()
        } catch (error: Throwable) {
            end.completeExceptionally(error)
        }
    }
}
