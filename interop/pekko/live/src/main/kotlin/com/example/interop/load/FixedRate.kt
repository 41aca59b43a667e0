package com.example.interop.load

import com.example.interop.live.UserCommand
import java.util.SplittableRandom
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicIntegerArray
import java.util.concurrent.atomic.AtomicLong
import java.util.concurrent.locks.LockSupport

/** How long the sending thread sleeps between two looks at what is due, as for every other contender. */
private val TICK_NANOS = TimeUnit.MICROSECONDS.toNanos(50)

/** The most reads in flight. Beyond it nothing is sent; what is due meanwhile is late, and counts as that. */
private const val IN_FLIGHT_MAX = 100_000L

/** How long the sending thread sleeps while it only waits for the last answers. */
private val LAST_ANSWERS_NANOS = TimeUnit.MILLISECONDS.toNanos(1)

private val NANOS_PER_SECOND = TimeUnit.SECONDS.toNanos(1)

/** What has become of a read. */
private const val IN_FLIGHT = 0
private const val ENDED = 1

/** The moments at which reads are due: evenly spaced, and decided before anything is sent. */
private class Schedule(private val start: Long, private val perSecond: Long) {
    /** When the read with this number is due. */
    fun due(number: Long): Long =
        start + number / perSecond * NANOS_PER_SECOND + number % perSecond * NANOS_PER_SECOND / perSecond

    /** How many reads are due before this moment. */
    fun dueBefore(moment: Long): Long {
        val elapsed = maxOf(moment - start, 0)
        val (seconds, nanos) = elapsed / NANOS_PER_SECOND to elapsed % NANOS_PER_SECOND
        return seconds * perSecond + (nanos * perSecond + NANOS_PER_SECOND - 1) / NANOS_PER_SECOND
    }
}

/**
 * Begins so many reads a second, answered or not, by the same rule as for every other contender
 * (`bench/src/load/fixed_rate.rs`): each latency counts from the moment its read was due, and every read that was due in
 * the window is answered, failed or given up, with the time that it had waited by then.
 */
fun fixedRate(users: Users, choice: Choice, perSecond: Int, timing: Timing): Map<String, Any?> =
    FixedRate(users, choice, perSecond, timing).measure()

private class FixedRate(
    private val users: Users,
    private val choice: Choice,
    private val perSecond: Int,
    private val timing: Timing,
) {
    private val figures = Figures()
    private val sentLate = Figures()

    /** How many answers came in the window, whenever their reads were due. */
    private val answers = AtomicLong()
    private val inFlight = AtomicLong()
    private var givenUp = 0L

    private val start = System.nanoTime()
    private val schedule = Schedule(start, perSecond.toLong())
    private val window = timing.window(start)
    private val giveUpAt = window.end + timing.measuredNanos
    private val all = schedule.dueBefore(window.end)

    /** Who ends a read first, its answer or the end of all patience, counts it. */
    private val reads = AtomicIntegerArray(Math.toIntExact(all))

    fun measure(): Map<String, Any?> {
        send()
        while (inFlight.get() > 0 && System.nanoTime() - giveUpAt < 0) LockSupport.parkNanos(LAST_ANSWERS_NANOS)
        for (number in 0 until all) giveUp(number)
        val extras = mapOf(
            "rate" to perSecond.toDouble(),
            "given_up" to givenUp.toDouble(),
            "sent_late_p50_us" to sentLate.microsAt(50.0),
            "sent_late_p99_us" to sentLate.microsAt(99.0),
        )
        val perSecond = answers.get() * 1e9 / timing.measuredNanos
        return figures.over(timing.measuredNanos, extras) + ("per_second" to perSecond)
    }

    private fun send() {
        val random = SplittableRandom()
        var next = 0L
        while (next < all) {
            val now = System.nanoTime()
            if (now - giveUpAt >= 0) return
            val room = maxOf(IN_FLIGHT_MAX - inFlight.get(), 0)
            val due = minOf(schedule.dueBefore(now), all, next + room)
            inFlight.addAndGet(due - next)
            while (next < due) {
                val number = next++
                val late = now - schedule.due(number)
                if (window.holds(schedule.due(number))) sentLate.answered(late)
                users.ask(choice(random), UserCommand::Get) { seen -> end(number, seen) }
            }
            LockSupport.parkNanos(TICK_NANOS)
        }
    }

    private fun end(number: Long, seen: Boolean) {
        inFlight.decrementAndGet()
        if (!reads.compareAndSet(number.toInt(), IN_FLIGHT, ENDED)) return
        val now = System.nanoTime()
        val due = schedule.due(number)
        if (seen && window.holds(now)) answers.incrementAndGet()
        if (!window.holds(due)) return
        if (seen) figures.answered(now - due) else figures.failed()
    }

    private fun giveUp(number: Long) {
        val due = schedule.due(number)
        if (reads.compareAndSet(number.toInt(), IN_FLIGHT, ENDED) && window.holds(due)) {
            givenUp++
            figures.answered(giveUpAt - due)
        }
    }
}
