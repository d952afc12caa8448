//! Tests of the migration stream.
