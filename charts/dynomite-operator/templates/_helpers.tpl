{{- define "dynomite-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dynomite-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "dynomite-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "dynomite-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dynomite-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "dynomite-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "dynomite-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "dynomite-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "dynomite-operator.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* What the operator may do in a namespace whose rings it runs. */}}
{{- define "dynomite-operator.rules" -}}
- apiGroups: [dynomite.io]
  resources: [dynomiteclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [dynomite.io]
  resources: [dynomiteclusters/status]
  verbs: [patch]
# Owner references that block deletion need it on clusters that enforce them.
- apiGroups: [dynomite.io]
  resources: [dynomiteclusters/finalizers]
  verbs: [update]
- apiGroups: [dynomite.io]
  resources: [dynomitebackups, dynomiterestores]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [dynomite.io]
  resources: [dynomitebackups/status, dynomiterestores/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Nodes and claims are made by the StatefulSets; the pod that loads a backup to prove it is not.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create, delete]
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, patch, delete]
# By name only: what it may not list it cannot go looking for.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# A StatefulSet that cannot create its pods says why in Events only.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end }}

{{- define "dynomite-operator.subjects" -}}
- kind: ServiceAccount
  name: {{ include "dynomite-operator.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
