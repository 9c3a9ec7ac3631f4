//! Prints a custom resource definition as YAML; `cargo xtask crds` writes it to `crds/`.

use dynomite_api::crd::DynomiteCluster;
use kube::CustomResourceExt;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    print!("{}", serde_yaml::to_string(&DynomiteCluster::crd())?);
    Ok(())
}
