//! What the host is told of a request that failed.

use nacre_agent::container::describe;
use nacre_agent::protocol::Failure;

/// Makes a failure of no particular kind.
pub(super) fn failure(error: &dyn std::error::Error) -> Failure {
    Failure {
        message: describe(error),
        status: 1,
    }
}

/// Returns the failure of a request that isn't possible now.
pub(super) fn refused(message: String) -> Failure {
    Failure { message, status: 1 }
}
