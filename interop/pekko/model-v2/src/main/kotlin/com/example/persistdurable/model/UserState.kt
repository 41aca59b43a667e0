package com.example.persistdurable.model

import java.time.LocalDateTime

/** Version 2: the opt-in has another name, and visits are counted. */
data class UserState(
    val mallId: String,
    val userId: String,
    val lastLogin: LocalDateTime?,
    val lastCartUsedTime: LocalDateTime?,
    val recentProducts: List<String> = emptyList(),
    val optedIn: Boolean = false,
    val lastEventTime: LocalDateTime,
    val visits: Int,
)
