//! What is run: the bundle's configuration, changed for a run.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{config::bundle::Bundle, text::one_line};

use super::{error::CompareError, workspace::Place};

/// Where another program is mounted in the container's root.
const PROGRAM: &str = ".nacre-probe";

/// A bundle's workload.
#[derive(Debug)]
pub(super) struct Workload {
    /// The bundle's root file system.
    pub(super) root: PathBuf,
    config: Value,
    /// What is made in its root, for something to be mounted there.
    pub(super) mount_point: Option<&'static str>,
    /// What a reader has to know about how it is run.
    pub(super) notes: Vec<String>,
}

impl Workload {
    /// Takes a bundle's configuration, with other arguments if there are any.
    pub(super) fn new(bundle: &Bundle, arguments: &[String]) -> Result<Self, CompareError> {
        let mut config: Value = serde_json::from_slice(&bundle.json)
            .map_err(|_| CompareError::Config("the configuration isn't JSON"))?;
        let root = config
            .pointer("/root/path")
            .and_then(Value::as_str)
            .ok_or(CompareError::Config("the configuration has no root.path"))?;
        let root = bundle.directory.join(root);
        if config.pointer("/process/args").is_none() {
            return Err(CompareError::Config("the configuration has no process"));
        }
        if !arguments.is_empty() {
            config["process"]["args"] = json!(arguments);
        }
        let mut notes = Vec::new();
        if config.pointer("/process/terminal") == Some(&json!(true)) {
            config["process"]["terminal"] = json!(false);
            notes.push("it has no terminal, which its config.json asks for".to_owned());
        }
        if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
            linux.remove("cgroupsPath");
        }
        if config["hooks"]
            .as_object()
            .is_some_and(|hooks| !hooks.is_empty())
        {
            notes.push("its hooks are run with every run".to_owned());
        }
        notes.extend(shared_volumes(&mut config, &bundle.directory)?);
        Ok(Self {
            root,
            mount_point: None,
            config,
            notes,
        })
    }

    /// Returns the same container with another program, which is mounted into it, in the workload's
    /// place.
    pub(super) fn with_program(&self, program: &Path, argument: &str) -> Self {
        let mut config = self.config.clone();
        config["process"]["args"] = json!([format!("/{PROGRAM}"), argument]);
        let mount = json!({
            "destination": format!("/{PROGRAM}"),
            "type": "bind",
            "source": program.to_string_lossy(),
            "options": ["bind", "ro", "nosuid", "nodev"],
        });
        match config["mounts"].as_array_mut() {
            Some(mounts) => mounts.push(mount),
            None => config["mounts"] = json!([mount]),
        }
        Self {
            root: self.root.clone(),
            mount_point: Some(PROGRAM),
            config,
            notes: Vec::new(),
        }
    }

    /// Returns the configuration.
    pub(super) fn config(&self) -> &Value {
        &self.config
    }

    /// Writes the configuration of a run in its place.
    pub(super) fn configure(&self, place: &Place) -> Result<(), CompareError> {
        let mut config = self.config.clone();
        config["root"]["path"] = json!(place.root().to_string_lossy());
        place.configure(&config)
    }

    /// Returns the arguments.
    pub(super) fn arguments(&self) -> &Value {
        &self.config["process"]["args"]
    }
}

/// Makes the sources of bind mounts absolute: they are relative to the bundle. Returns a note about
/// those that can be written to.
fn shared_volumes(config: &mut Value, bundle: &Path) -> Result<Option<String>, CompareError> {
    let mut shared = Vec::new();
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in mounts.into_iter().flatten() {
        let options: Vec<&str> = mount["options"]
            .as_array()
            .map(|options| options.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let is_bind = mount["type"] == "bind"
            || options
                .iter()
                .any(|option| ["bind", "rbind"].contains(option));
        if !is_bind {
            continue;
        }
        if !options.contains(&"ro") {
            shared.push(one_line(mount["destination"].as_str().unwrap_or_default()));
        }
        if let Some(source) = mount["source"].as_str() {
            let source = bundle.join(source);
            let source = source.to_str().ok_or(CompareError::Config(
                "a mount's source is relative to the bundle, whose path isn't UTF-8",
            ))?;
            mount["source"] = json!(source);
        }
    }
    let shared = (!shared.is_empty()).then(|| {
        let shared = shared.join(", ");
        format!("all runs share what can be written to at {shared}: only the root begins anew")
    });
    Ok(shared)
}
