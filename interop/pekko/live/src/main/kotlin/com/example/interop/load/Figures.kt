package com.example.interop.load

import org.HdrHistogram.ConcurrentHistogram
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.LongAdder

/** Three digits of a latency count, as for every other contender. */
private const val DIGITS = 3

/** Longer than any request takes. */
private val MICROS_MAX = TimeUnit.HOURS.toMicros(1)

/** How long a load takes: what comes first and does not count, and what is measured. */
data class Timing(val warmUpNanos: Long, val measuredNanos: Long) {
    /** The time in which answers count, if the load begins at this moment. */
    fun window(now: Long) = Window(now + warmUpNanos, now + warmUpNanos + measuredNanos)
}

/** The time in which answers count, by [System.nanoTime]. */
data class Window(val start: Long, val end: Long) {
    fun holds(at: Long) = at - start >= 0 && at - end < 0
}

/** What callers saw. */
class Figures {
    private val micros = ConcurrentHistogram(MICROS_MAX, DIGITS)
    private val errors = LongAdder()

    fun answered(nanos: Long) =
        micros.recordValue(TimeUnit.NANOSECONDS.toMicros(nanos).coerceIn(0, MICROS_MAX))

    fun failed() = errors.increment()

    fun errors() = errors.sum()

    /** As the benchmark reads it, of a load whose answers came in this time. */
    fun over(nanos: Long, extras: Map<String, Double> = emptyMap()): Map<String, Any?> = mapOf(
        "per_second" to perSecond(nanos),
        "p50_us" to quantile(50.0),
        "p99_us" to quantile(99.0),
        "p999_us" to quantile(99.9),
        "errors" to errors.sum(),
        "extras" to extras,
    )

    fun perSecond(nanos: Long) = micros.totalCount * 1e9 / nanos

    /** A quantile of the latencies, 0 where there are none. */
    fun microsAt(percent: Double): Double = (quantile(percent) ?: 0L).toDouble()

    private fun quantile(percent: Double) = if (micros.totalCount == 0L) null else micros.getValueAtPercentile(percent)
}
