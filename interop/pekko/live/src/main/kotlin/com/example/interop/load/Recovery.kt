package com.example.interop.load

import com.example.interop.live.UserCommand
import java.util.concurrent.CompletableFuture
import java.util.concurrent.atomic.AtomicInteger

/** Lets so many callers ask for each of these users once, or for as many as there is time for. */
fun recovery(users: Users, cold: IntArray, callers: Int, nanosMax: Long): Map<String, Any?> {
    val figures = Figures()
    val next = AtomicInteger()
    val start = System.nanoTime()

    fun call(end: CompletableFuture<Unit>) {
        try {
            val sent = System.nanoTime()
            val user = cold.getOrNull(next.getAndIncrement())
            if (user == null || sent - start >= nanosMax) {
                end.complete(Unit)
                return
            }
            users.ask(user, UserCommand::Get) { seen ->
                if (seen) figures.answered(System.nanoTime() - sent) else figures.failed()
                call(end)
            }
        } catch (error: Throwable) {
            end.completeExceptionally(error)
        }
    }

    val running = List(callers) { CompletableFuture<Unit>().also(::call) }
    CompletableFuture.allOf(*running.toTypedArray()).join()
    return figures.over(System.nanoTime() - start)
}
