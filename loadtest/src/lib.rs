//! The load test is the example `loadtest` of this package.
