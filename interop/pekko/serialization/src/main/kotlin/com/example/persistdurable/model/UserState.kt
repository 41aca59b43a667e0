package com.example.persistdurable.model

import java.time.LocalDateTime

/** What a Kotlin team keeps of a user. The stored form has these fields in this order. */
data class UserState(
    val mallId: String,
    val userId: String,
    val lastLogin: LocalDateTime?,
    val lastCartUsedTime: LocalDateTime?,
    val recentProducts: List<String> = emptyList(),
    val marketingOptIn: Boolean = false,
    val lastEventTime: LocalDateTime,
)
