package com.example.interop.live

import com.example.interop.Wire
import com.example.persistdurable.model.UserState
import org.apache.pekko.actor.typed.ActorRef
import org.apache.pekko.actor.typed.BackoffSupervisorStrategy
import org.apache.pekko.actor.typed.Behavior
import org.apache.pekko.actor.typed.SupervisorStrategy
import org.apache.pekko.actor.typed.javadsl.ActorContext
import org.apache.pekko.actor.typed.javadsl.Behaviors
import org.apache.pekko.persistence.typed.PersistenceId
import org.apache.pekko.persistence.typed.state.RecoveryCompleted
import org.apache.pekko.persistence.typed.state.javadsl.CommandHandler
import org.apache.pekko.persistence.typed.state.javadsl.DurableStateBehavior
import org.apache.pekko.persistence.typed.state.javadsl.Effect
import org.apache.pekko.persistence.typed.state.javadsl.EffectBuilder
import org.apache.pekko.persistence.typed.state.javadsl.SignalHandler
import java.time.Duration
import java.time.Instant
import java.time.LocalDateTime
import java.time.ZoneId
import java.util.Optional
import org.apache.pekko.persistence.typed.state.scaladsl.Effect as ScalaEffect

/** What a user's actor is asked. Every request is answered, by the actor or by its end. */
sealed interface UserCommand {
    val replyTo: ActorRef<Answer>

    data class Login(val at: Instant, override val replyTo: ActorRef<Answer>) : UserCommand
    data class UseCart(val at: Instant, override val replyTo: ActorRef<Answer>) : UserCommand
    data class ViewProduct(val productId: String, val at: Instant, override val replyTo: ActorRef<Answer>) : UserCommand
    data class SetMarketingOptIn(val optIn: Boolean, val at: Instant, override val replyTo: ActorRef<Answer>) :
        UserCommand
    data class Get(override val replyTo: ActorRef<Answer>) : UserCommand
    data class Delete(override val replyTo: ActorRef<Answer>) : UserCommand
    data class Stop(override val replyTo: ActorRef<Answer>) : UserCommand
}

sealed interface Answer

/** What the actor holds after a request. */
data class Seen(val revision: Long, val state: UserState?) : Answer

/** The write of the request failed; the actor was started anew and has read the row again. */
data class WriteFailed(val revision: Long) : Answer

/** What the actor does when the store refuses its write. */
enum class OnWriteFailure { Stop, Restart }

/** What an application takes for the state of a user that has none. */
enum class EmptyState { Value, Null }

/** Keeps the last known state of one user, by the same rules as the Rust domain. */
class UserBehavior private constructor(
    private val context: ActorContext<UserCommand>,
    persistenceId: PersistenceId,
    private val mallId: String,
    private val userId: String,
    private val tag: String,
    private val empty: EmptyState,
    onWriteFailure: Optional<BackoffSupervisorStrategy>,
) : DurableStateBehavior<UserCommand, UserState>(persistenceId, onWriteFailure) {
    /** The request whose write has no outcome yet. */
    private var writing: UserCommand? = null

    override fun emptyState(): UserState? = when (empty) {
        EmptyState.Value -> nobody()
        EmptyState.Null -> null
    }

    private fun nobody() = UserState(mallId, userId, null, null, lastEventTime = Wire.NEVER)

    override fun tag() = tag

    override fun commandHandler(): CommandHandler<UserCommand, UserState> = CommandHandler { stored, command ->
        // Where nothing is not null, the application does not expect null.
        val state = if (empty == EmptyState.Null) stored ?: nobody() else stored
        when (command) {
            is UserCommand.Login -> command.at.local().let { at ->
                persist(command, state.copy(lastLogin = later(state.lastLogin, at)).seen(at))
            }
            is UserCommand.UseCart -> command.at.local().let { at ->
                persist(command, state.copy(lastCartUsedTime = later(state.lastCartUsedTime, at)).seen(at))
            }
            is UserCommand.ViewProduct ->
                persist(command, state.view(command.productId).seen(command.at.local()))
            is UserCommand.SetMarketingOptIn ->
                persist(command, state.copy(marketingOptIn = command.optIn).seen(command.at.local()))
            is UserCommand.Get -> Effect().none().thenRun { seen: UserState? -> reply(command, seen) }
            is UserCommand.Delete -> delete().thenRun { seen: UserState? -> reply(command, seen) }
            is UserCommand.Stop -> Effect().stop().thenRun { seen: UserState? -> reply(command, seen) }
        }
    }

    override fun signalHandler(): SignalHandler<UserState> = newSignalHandlerBuilder()
        .onSignal(RecoveryCompleted::class.java) { _, _ ->
            writing?.replyTo?.tell(WriteFailed(lastSequenceNumber(context)))
            writing = null
        }
        .build()

    private fun persist(command: UserCommand, state: UserState): Effect<UserState> {
        writing = command
        return Effect().persist(state).thenRun { persisted: UserState? ->
            writing = null
            reply(command, persisted)
        }
    }

    /** The Java DSL has no delete; the effect of the Scala DSL is one of the Java DSL as well. */
    @Suppress("UNCHECKED_CAST")
    private fun delete() = ScalaEffect.delete<UserState>() as EffectBuilder<UserState>

    private fun reply(command: UserCommand, state: UserState?) =
        command.replyTo.tell(Seen(lastSequenceNumber(context), state))

    companion object {
        private const val RECENT_PRODUCTS_MAX = 3

        fun create(
            persistenceId: PersistenceId,
            entityId: String,
            tag: String,
            empty: EmptyState,
            onWriteFailure: OnWriteFailure,
        ): Behavior<UserCommand> = Behaviors.setup { context ->
            val (mallId, userId) = entityId.split("-", limit = 2)
            val strategy = when (onWriteFailure) {
                OnWriteFailure.Stop -> Optional.empty()
                OnWriteFailure.Restart -> Optional.of(
                    SupervisorStrategy.restartWithBackoff(Duration.ofMillis(20), Duration.ofMillis(200), 0.1),
                )
            }
            UserBehavior(context, persistenceId, mallId, userId, tag, empty, strategy)
        }

        /** An application keeps the local time of the zone that its JVM runs in. */
        private fun Instant.local(): LocalDateTime = LocalDateTime.ofInstant(this, ZoneId.systemDefault())

        private fun later(known: LocalDateTime?, at: LocalDateTime) = if (known == null || known < at) at else known

        private fun UserState.seen(at: LocalDateTime) = copy(lastEventTime = later(lastEventTime, at))

        private fun UserState.view(productId: String) =
            copy(recentProducts = (listOf(productId) + (recentProducts - productId)).take(RECENT_PRODUCTS_MAX))
    }
}
