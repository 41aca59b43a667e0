package com.example.interop.live

import org.apache.pekko.Done
import org.apache.pekko.actor.typed.ActorRef
import org.apache.pekko.actor.typed.ActorSystem
import org.apache.pekko.actor.typed.Behavior
import org.apache.pekko.actor.typed.ChildFailed
import org.apache.pekko.actor.typed.Terminated
import org.apache.pekko.actor.typed.javadsl.ActorContext
import org.apache.pekko.actor.typed.javadsl.AskPattern
import org.apache.pekko.actor.typed.javadsl.Behaviors
import com.typesafe.config.Config
import java.time.Duration
import java.util.concurrent.CompletableFuture
import java.util.concurrent.CompletionStage
import java.util.concurrent.ConcurrentHashMap

/** How long an actor may take to answer: far more than it ever needs, so that a test fails instead of hanging. */
private val ANSWER_TIMEOUT: Duration = Duration.ofSeconds(30)

/** An actor that ended before it answered, and why where it failed. */
class ActorEnded(name: String, cause: Throwable?) :
    RuntimeException("actor $name ended" + (cause?.let { ": ${it.javaClass.simpleName}: ${it.message}" } ?: ""))

/** The store refused the write, and the actor was started anew. */
class ActorRestarted(name: String, revision: Long) :
    RuntimeException("actor $name could not write and was started anew at revision $revision")

/** One actor system on one database, as one process of an application would be, and its user actors by name. */
class Node(name: String, config: Config) {
    private val actors = ConcurrentHashMap<String, Actor>()

    val system: ActorSystem<Guardian.Spawn> = ActorSystem.create(Guardian.create(), name, config)

    private class Actor(val ref: ActorRef<UserCommand>, val ended: CompletableFuture<Throwable?>)

    /** Starts an actor and answers what it recovered. */
    fun start(name: String, behavior: Behavior<UserCommand>): CompletionStage<Seen> {
        val ended = CompletableFuture<Throwable?>()
        return AskPattern.ask<Guardian.Spawn, ActorRef<UserCommand>>(
            system, { Guardian.Spawn(behavior, ended, it) }, ANSWER_TIMEOUT, system.scheduler(),
        ).thenCompose { ref ->
            val actor = Actor(ref, ended)
            check(actors.putIfAbsent(name, actor) == null) { "there is an actor $name already" }
            ended.whenComplete { _, _ -> actors.remove(name, actor) }
            ask(name, UserCommand::Get)
        }
    }

    /** Asks an actor. Its end is an error at once, not a time-out. */
    fun ask(name: String, command: (ActorRef<Answer>) -> UserCommand): CompletionStage<Seen> {
        val actor = actors[name] ?: throw IllegalArgumentException("there is no actor $name")
        val answer = AskPattern.ask(actor.ref, command, ANSWER_TIMEOUT, system.scheduler())
            .toCompletableFuture()
            .thenApply {
                when (it) {
                    is Seen -> it
                    is WriteFailed -> throw ActorRestarted(name, it.revision)
                }
            }
        val ended = actor.ended.thenApply<Seen> { cause -> throw ActorEnded(name, cause) }
        return answer.applyToEither(ended) { it }
    }

    /** Stops an actor and waits until it is gone. */
    fun stop(name: String): CompletionStage<Seen> {
        val actor = actors[name] ?: throw IllegalArgumentException("there is no actor $name")
        return AskPattern.ask(actor.ref, UserCommand::Stop, ANSWER_TIMEOUT, system.scheduler())
            .thenCombine(actor.ended) { seen, _ -> seen as Seen }
    }

    fun close(): CompletionStage<Done> {
        system.terminate()
        return system.whenTerminated
    }
}

/** Starts actors and tells of their end. */
object Guardian {
    class Spawn(
        val behavior: Behavior<UserCommand>,
        val ended: CompletableFuture<Throwable?>,
        val replyTo: ActorRef<ActorRef<UserCommand>>,
    )

    fun create(): Behavior<Spawn> = Behaviors.setup { context -> running(context, HashMap()) }

    private fun running(
        context: ActorContext<Spawn>,
        ends: MutableMap<ActorRef<Void>, CompletableFuture<Throwable?>>,
    ): Behavior<Spawn> = Behaviors.receive(Spawn::class.java)
        .onMessage(Spawn::class.java) { spawn ->
            val ref = context.spawnAnonymous(spawn.behavior)
            ends[ref.unsafeUpcast()] = spawn.ended
            context.watch(ref)
            spawn.replyTo.tell(ref)
            Behaviors.same()
        }
        .onSignal(Terminated::class.java) { end ->
            ends.remove(end.ref)?.complete((end as? ChildFailed)?.cause)
            Behaviors.same()
        }
        .build()
}
