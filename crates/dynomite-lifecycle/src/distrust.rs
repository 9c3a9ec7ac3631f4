//! Distrust: the operator's word that one certain proof counts no longer, however often it is repeated.

use crate::lifecycle::Lifecycle;

impl Lifecycle {
    /// Why the proof that the node has counts no longer, if that was said of it.
    /// A proof that came later is another one.
    pub(crate) fn distrusted(&self) -> Option<String> {
        let distrust = self.desired.as_ref()?.distrust.as_ref()?;
        let proof = self.proof()?;
        let meant = distrust.pod_uid == self.pod_uid && distrust.proof_since == proof.since;
        meant.then(|| distrust.why.clone())
    }
}
