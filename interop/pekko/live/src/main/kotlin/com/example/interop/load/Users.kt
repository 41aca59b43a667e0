package com.example.interop.load

import com.example.interop.live.Answer
import com.example.interop.live.EmptyState
import com.example.interop.live.OnWriteFailure
import com.example.interop.live.Seen
import com.example.interop.live.UserBehavior
import com.example.interop.live.UserCommand
import com.typesafe.config.Config
import org.apache.pekko.actor.typed.ActorRef
import org.apache.pekko.actor.typed.ActorSystem
import org.apache.pekko.actor.typed.Behavior
import org.apache.pekko.actor.typed.javadsl.ActorContext
import org.apache.pekko.actor.typed.javadsl.AskPattern
import org.apache.pekko.actor.typed.javadsl.Behaviors
import org.apache.pekko.persistence.typed.PersistenceId
import java.time.Duration
import java.util.concurrent.Executor
import java.util.concurrent.Semaphore
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicReferenceArray

/** More than an actor needs to answer under any load; what takes longer is an error. */
private val ANSWER_TIMEOUT: Duration = Duration.ofSeconds(60)

/** How long a system may take to end. */
private const val END_SECONDS_MAX = 60L

/** How many reads are on their way while users are brought to life untimed. */
private const val READS_ON_THEIR_WAY_MAX = 4_096

private const val TAG = "user-state"

/** A request for a user who may have no actor yet. */
private class Delivery(val user: Int, val command: UserCommand)

/**
 * An actor system on a database, and an actor for every user who was asked for.
 *
 * Actors stand in an array by the number of their user, which is quicker than the cluster sharding that an application
 * of several nodes needs; the guardian starts those that are not there yet.
 */
class Users(config: Config, population: Int) : AutoCloseable {
    private val actors = AtomicReferenceArray<ActorRef<UserCommand>?>(population)
    private val system: ActorSystem<Delivery> = ActorSystem.create(guardian(), "load", config)

    /** Where callers go on when they are answered: on Pekko's own threads. */
    val executor: Executor = system.executionContext()

    /** Asks a user, and tells whether the answer is the one hoped for. No thread waits. */
    fun ask(user: Int, asking: Asking, answered: (Boolean) -> Unit) {
        val actor = actors.get(user)
        val answer =
            if (actor != null) AskPattern.ask(actor, asking, ANSWER_TIMEOUT, system.scheduler())
            else AskPattern.ask<Delivery, Answer>(
                system, { Delivery(user, asking(it)) }, ANSWER_TIMEOUT, system.scheduler(),
            )
        answer.whenCompleteAsync({ seen, _ -> answered(seen is Seen) }, executor)
    }

    /** Brings users to life, untimed. */
    fun bringToLife(users: IntArray) {
        val free = Semaphore(READS_ON_THEIR_WAY_MAX)
        val figures = Figures()
        for (user in users) {
            free.acquire()
            ask(user, UserCommand::Get) { seen ->
                if (!seen) figures.failed()
                free.release()
            }
        }
        free.acquire(READS_ON_THEIR_WAY_MAX)
        check(figures.errors() == 0L) { "${figures.errors()} of ${users.size} users did not come to life" }
    }

    override fun close() {
        system.terminate()
        system.whenTerminated.toCompletableFuture().get(END_SECONDS_MAX, TimeUnit.SECONDS)
    }

    private fun guardian(): Behavior<Delivery> = Behaviors.receive { context, delivery ->
        val actor = actors.get(delivery.user) ?: start(context, delivery.user)
        actor.tell(delivery.command)
        Behaviors.same()
    }

    private fun start(context: ActorContext<Delivery>, user: Int): ActorRef<UserCommand> {
        val id = "load-user-$user"
        // A restart answers the command whose write failed; an actor that stops would leave its caller to a time-out.
        val behavior = UserBehavior.create(
            PersistenceId.ofUniqueId(id), id, TAG, EmptyState.Value, OnWriteFailure.Restart,
        )
        return context.spawn(behavior, id).also { actors.set(user, it) }
    }
}
