{{- define "siglip.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "siglip.selector" -}}
app.kubernetes.io/name: siglip-server
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "siglip.labels" -}}
{{ include "siglip.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "siglip.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Seconds from the end of preStop and the signal to the kill: what the drain may take, and five more. */}}
{{- define "siglip.termination" -}}
{{- add .Values.drain.preStopSleepSeconds .Values.drain.delaySeconds .Values.drain.graceSeconds 5 }}
{{- end }}

{{- define "siglip.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What the download and the server agree on. */}}
{{- define "siglip.hubEnv" -}}
- {name: HF_HOME, value: /models}
{{- with .Values.hub.endpoint }}
- {name: HF_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- with .Values.hub.tokenSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: token}
{{- end }}
{{- end }}

{{- define "siglip.selectsItself" -}}
metadata:
  name: {{ include "siglip.name" . }}
  labels: {{- include "siglip.labels" . | nindent 4 }}
{{- end }}

{{/* The port of probes and metrics. */}}
{{- define "siglip.adminPort" -}}
{{- ternary "admin" "http" .Values.admin.enabled }}
{{- end }}

{{/* The port of the collector of traces: the one in its address, or that of its scheme. */}}
{{- define "siglip.tracePort" -}}
{{- $host := (urlParse .Values.traces.endpoint).host }}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" }}
{{- $port | default (ternary "443" "80" (hasPrefix "https:" .Values.traces.endpoint)) }}
{{- end }}

{{/* A number or a percentage, or the default for an empty text. 0 is a value. */}}
{{- define "siglip.orDefault" -}}
{{- $given := toString (index . 0) }}
{{- if eq $given "" }}{{ index . 1 }}{{ else if hasSuffix "%" $given }}{{ $given | quote }}{{ else }}{{ $given }}{{ end }}
{{- end }}
