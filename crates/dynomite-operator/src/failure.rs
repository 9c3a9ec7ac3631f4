//! Errors of the API server in the words that reach status: one word and a sentence, the same from try to try.

/// An error as status and metrics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// One word, `CamelCase`.
    pub reason: String,
    /// In words, without anything that changes from try to try.
    pub message: String,
}

/// What an error of the API client means.
pub fn describe(error: &kube::Error) -> Described {
    let (reason, message) = match error {
        kube::Error::Api(status) if status.code == 403 && is_quota(&status.message) => (
            "QuotaExceeded".to_owned(),
            format!(
                "{}: raise the ResourceQuota or ask for less",
                status.message
            ),
        ),
        kube::Error::Api(status) if is_leaving(&status.message) => (
            "NamespaceTerminating".to_owned(),
            "the namespace is being deleted".to_owned(),
        ),
        kube::Error::Api(status) if status.code == 403 && is_growth(&status.message) => (
            "VolumeCannotGrow".to_owned(),
            format!(
                "{}: set allowVolumeExpansion on the StorageClass, if its provisioner can",
                status.message
            ),
        ),
        kube::Error::Api(status) if status.code == 403 && is_capacity(&status.message) => {
            ("NodeTooSmall".to_owned(), shortened(&status.message))
        }
        kube::Error::Api(status) if status.code == 403 => (
            "Forbidden".to_owned(),
            format!(
                "{}: check the operator's Role and RoleBinding",
                status.message
            ),
        ),
        kube::Error::Api(status) => {
            let reason = match status.reason.as_str() {
                "" => format!("Http{}", status.code),
                reason => reason.to_owned(),
            };
            (reason, shortened(&status.message))
        }
        kube::Error::SerdeError(_) => (
            "Unreadable".to_owned(),
            "the API server's answer cannot be read".to_owned(),
        ),
        _ => (
            "Unreachable".to_owned(),
            "the API server cannot be reached".to_owned(),
        ),
    };
    Described { reason, message }
}

/// Whether the API server speaks of a volume whose class does not let it grow.
fn is_growth(message: &str) -> bool {
    message.contains("must support resize")
}

/// Whether a Kubernetes node can never give a pod what it asks for.
fn is_capacity(message: &str) -> bool {
    message.contains("enough allocatable resources")
}

/// Whether somebody else wrote first, or the object is another one by now.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Whether the same call would never succeed: the API server does not know it,
/// forbids it, or finds it invalid. A quota may be raised.
pub fn is_final(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    matches!(status.code, 400 | 403 | 404 | 405 | 422) && !is_quota(&status.message)
}

/// Whether the object does not exist.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn is_quota(message: &str) -> bool {
    message.contains("exceeded quota")
}

fn is_leaving(message: &str) -> bool {
    message.contains("because it is being terminated")
}

/// Some messages carry a whole object; its beginning says what is wrong.
fn shortened(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(code: u16, reason: &str, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, reason).with_code(code).boxed())
    }

    #[test]
    fn each_error_has_a_word_and_a_remedy_where_there_is_one() {
        let table = [
            (api(403, "Forbidden", "exceeded quota: q"), "QuotaExceeded"),
            (api(403, "Forbidden", "may not"), "Forbidden"),
            (
                api(
                    403,
                    "Forbidden",
                    "node didn't have enough allocatable resources: memory",
                ),
                "NodeTooSmall",
            ),
            (
                api(403, "Forbidden", "the storageclass must support resize"),
                "VolumeCannotGrow",
            ),
            (
                api(403, "Forbidden", "not in b because it is being terminated"),
                "NamespaceTerminating",
            ),
            (api(422, "Invalid", "bad field"), "Invalid"),
            (api(429, "TooManyRequests", "slow down"), "TooManyRequests"),
            (api(500, "", "boom"), "Http500"),
            (kube::Error::LinesCodecMaxLineLengthExceeded, "Unreachable"),
        ];
        for (error, reason) in table {
            assert_eq!(describe(&error).reason, reason);
        }
        assert!(is_conflict(&api(409, "Conflict", "")));
        assert!(!is_conflict(&api(404, "NotFound", "")));
        assert!(is_not_found(&api(404, "NotFound", "")));
        assert!(is_final(&api(422, "Invalid", "")) && is_final(&api(404, "NotFound", "")));
        assert!(!is_final(&api(403, "Forbidden", "exceeded quota: q")));
        assert!(!is_final(&api(500, "", "boom")));
    }
}
