package com.example.interop.load

import com.example.interop.live.Answer
import com.example.interop.live.UserCommand
import org.apache.pekko.actor.typed.ActorRef
import java.time.Instant
import java.util.Random
import java.util.SplittableRandom
import kotlin.math.pow

/** How many products there are to view. */
private const val PRODUCTS = 1_000

/** The exponent of Zipf's law, and the seed that says which users are popular. */
private const val EXPONENT = 0.99
private const val SEED = 20_261_122L

private val productIds = Array(PRODUCTS) { "product-$it" }

/** A request that waits to be told whom to answer. */
typealias Asking = (ActorRef<Answer>) -> UserCommand

/** Chooses a user by number. */
typealias Choice = (SplittableRandom) -> Int

/** What callers ask for: whom, and how many of a hundred requests are reads. */
class Requests(val choice: Choice, private val readsPercent: Int) {
    fun next(random: SplittableRandom): Asking =
        if (random.nextInt(100) < readsPercent) UserCommand::Get else command(random)
}

/** A random command, as for every other contender (`bench/src/sample.rs`): mostly views, as in a shop. */
fun command(random: SplittableRandom): Asking {
    val at = Instant.now()
    return when (random.nextInt(10)) {
        0 -> { replyTo -> UserCommand.Login(at, replyTo) }
        1 -> { replyTo -> UserCommand.UseCart(at, replyTo) }
        2 -> random.nextBoolean().let { optIn -> { replyTo -> UserCommand.SetMarketingOptIn(optIn, at, replyTo) } }
        else -> productIds[random.nextInt(PRODUCTS)].let { id -> { replyTo -> UserCommand.ViewProduct(id, at, replyTo) } }
    }
}

/** Each of so many users as often. */
fun evenly(users: Int): Choice = { random -> random.nextInt(users) }

/** Few users often, most rarely: the one of rank n in proportion to 1 / n^0.99. */
fun skewed(users: Int): Choice {
    val cumulative = DoubleArray(users)
    var sum = 0.0
    for (rank in 0 until users) {
        sum += (rank + 1.0).pow(-EXPONENT)
        cumulative[rank] = sum
    }
    // Popular users do not stand beside each other in the table.
    val shuffled = (0 until users).shuffled(Random(SEED)).toIntArray()
    return { random ->
        val found = cumulative.binarySearch(random.nextDouble() * sum)
        val rank = if (found < 0) -found - 1 else found
        shuffled[rank.coerceAtMost(users - 1)]
    }
}
