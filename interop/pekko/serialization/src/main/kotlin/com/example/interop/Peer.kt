package com.example.interop

import com.fasterxml.jackson.databind.JsonNode
import java.io.InputStream
import java.io.PrintStream
import java.util.concurrent.CompletableFuture
import java.util.concurrent.CompletionException
import java.util.concurrent.CompletionStage
import kotlin.system.exitProcess

/** Does what a request asks for, at once or later. */
typealias Command = (arguments: JsonNode) -> CompletionStage<out Any?>

/** A command that is done when it returns. */
fun atOnce(command: (arguments: JsonNode) -> Any?): Command =
    { arguments -> CompletableFuture.completedFuture(command(arguments)) }

/**
 * Answers requests line by line.
 *
 * A request is `{"id": 1, "command": "...", ...}`, its answer `{"id": 1, "answer": ...}` or
 * `{"id": 1, "error": {"type": "...", "message": "..."}}`. Requests begin in their order; answers come in the order in
 * which they are ready. The end of the input is the end of the peer.
 */
class Peer(private val commands: Map<String, Command>, private val output: PrintStream) {
    fun serve(input: InputStream) {
        input.bufferedReader().forEachLine { line -> answerTo(Wire.mapper.readTree(line)) }
    }

    private fun answerTo(request: JsonNode) {
        val id = request["id"].longValue()
        begin(request).whenComplete { answer, error ->
            send(
                if (error == null) mapOf("id" to id, "answer" to answer)
                else mapOf("id" to id, "error" to describe(error)),
            )
        }
    }

    private fun begin(request: JsonNode): CompletionStage<out Any?> {
        val name = request["command"].textValue()
        return try {
            val command = commands[name] ?: throw IllegalArgumentException("there is no command $name")
            command(request)
        } catch (error: Throwable) {
            CompletableFuture.failedFuture(error)
        }
    }

    private fun send(message: Map<String, Any?>) {
        val line = try {
            Wire.mapper.writeValueAsString(message)
        } catch (error: Throwable) {
            Wire.mapper.writeValueAsString(mapOf("id" to message["id"], "error" to describe(error)))
        }
        synchronized(output) {
            output.println(line)
            output.flush()
        }
    }
}

/** An error as an answer shows it. */
fun describe(error: Throwable): Map<String, String> {
    val cause = if (error is CompletionException) error.cause ?: error else error
    return mapOf("type" to cause.javaClass.name, "message" to (cause.message ?: ""))
}

/** Serves these commands on standard input and output. */
fun serve(commands: Map<String, Command>): Nothing =
    answering { output -> Peer(commands, output).serve(System.`in`) }

/** Runs a process that answers on standard output; whatever else is printed goes to standard error. */
fun answering(answer: (PrintStream) -> Unit): Nothing {
    val output = PrintStream(System.out, false, Charsets.UTF_8)
    System.setOut(System.err)
    // Actor systems would keep the process alive, also behind a last line that was cut off.
    try {
        answer(output)
        exitProcess(0)
    } catch (error: Throwable) {
        error.printStackTrace()
        exitProcess(1)
    }
}

fun main(): Unit = serve(serializationCommands())
