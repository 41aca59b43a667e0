package com.example.interop.load

import java.util.SplittableRandom
import java.util.concurrent.Semaphore
import java.util.concurrent.locks.LockSupport
import kotlin.math.ln

/** The most requests on their way. Beyond it the generator waits; what is due meanwhile is late, and counts as that. */
private const val ON_THEIR_WAY_MAX = 100_000

/**
 * Sends commands at this rate, a second, answered or not.
 *
 * The moments at which they are due are decided beforehand (a Poisson process), and each latency counts from the moment
 * its command was due, so that a pause delays all that fall into it, not one.
 */
fun openLoop(users: Users, choice: Choice, rate: Double, timing: Timing): Figures {
    val figures = Figures()
    val random = SplittableRandom()
    val free = Semaphore(ON_THEIR_WAY_MAX)
    var due = System.nanoTime()
    val window = timing.window(due)
    while (true) {
        due += (-ln(1.0 - random.nextDouble()) / rate * 1e9).toLong()
        if (due - window.end >= 0) break
        sleepUntil(due)
        free.acquire()
        val wanted = due
        users.ask(choice(random), command(random)) { seen ->
            // What was due in the window counts, whenever it was answered.
            if (!seen) figures.failed()
            else if (window.holds(wanted)) figures.answered(System.nanoTime() - wanted)
            free.release()
        }
    }
    free.acquire(ON_THEIR_WAY_MAX)
    return figures
}

private fun sleepUntil(moment: Long) {
    while (true) {
        val left = moment - System.nanoTime()
        if (left <= 0) return
        LockSupport.parkNanos(left)
    }
}
