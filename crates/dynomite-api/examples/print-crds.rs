//! Prints the custom resource definition as YAML; `cargo xtask crds` writes it to `crds/`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    print!(
        "{}",
        serde_yaml::to_string(&dynomite_api::crd::definition())?
    );
    Ok(())
}
