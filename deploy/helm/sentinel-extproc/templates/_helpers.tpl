{{- define "sentinel.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "sentinel.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "sentinel.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "sentinel.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sentinel.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sentinel.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sentinel.labels" -}}
{{ include "sentinel.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sentinel.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "sentinel.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "sentinel.atLeast" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.minReplicas }}{{ else }}{{ .Values.replicas }}{{ end }}
{{- end }}

{{/* The settings: yours, and what the chart knows. */}}
{{- define "sentinel.settings" -}}
{{- $given := deepCopy .Values.settings }}
{{- $server := dict "listen" "0.0.0.0:50051" }}
{{- if eq .Values.mode "sidecar" }}
{{- $server = dict "listen" "unix:/run/sentinel/sentinel.sock" }}
{{- else }}
{{- if ne (toString (default 1 (default dict $given.server).workers)) "1" }}
{{- fail "settings.server.workers: a shared sidecar has one, since a Service sees its pod as one endpoint; set replicas" }}
{{- end }}
{{- if .Values.tls.secretName }}
{{- $_ := set $server "tls_cert_file" "/etc/sentinel/tls/tls.crt" }}
{{- $_ := set $server "tls_key_file" "/etc/sentinel/tls/tls.key" }}
{{- if .Values.tls.requireClientCert }}
{{- $_ := set $server "client_ca_file" "/etc/sentinel/tls/ca.crt" }}
{{- end }}
{{- end }}
{{- end }}
{{- $limits := dict }}
{{- if .Values.policy }}
{{- $_ := set $limits "policy_file" "/etc/sentinel/config/policy.yaml" }}
{{- end }}
{{- if not (hasKey (default dict $given.limits) "replicas_at_least") }}
{{- $_ := set $limits "replicas_at_least" (include "sentinel.atLeast" . | int) }}
{{- end }}
{{- $ours := dict "server" $server "admin" (dict "listen" "0.0.0.0:9180") "usage" (dict "outbox_path" "/var/lib/sentinel/outbox.db") "limits" $limits }}
{{- toYaml (mergeOverwrite $given $ours) }}
{{- end }}

{{/* Seconds from SIGTERM to the end: as long as settings let a drain take, and some. */}}
{{- define "sentinel.graceSeconds" -}}
{{- $server := default dict .Values.settings.server }}
{{- $usage := default dict .Values.settings.usage }}
{{- $drain := 600 }}{{ if hasKey $server "drain_seconds" }}{{ $drain = $server.drain_seconds }}{{ end }}
{{- $hand := 10 }}{{ if hasKey $server "hand_back_seconds" }}{{ $hand = $server.hand_back_seconds }}{{ end }}
{{- $last := 10 }}{{ if hasKey $usage "shutdown_seconds" }}{{ $last = $usage.shutdown_seconds }}{{ end }}
{{- add (floor (addf $drain $hand $last) | int) 20 }}
{{- end }}

{{- define "sentinel.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "sentinel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The sidecar's container; in sidecar mode one that starts before Envoy and ends after it. */}}
{{- define "sentinel.container" -}}
name: sentinel
image: "{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [sentinel-extproc, serve]
{{- if eq .Values.mode "sidecar" }}
restartPolicy: Always
{{- end }}
env:
  - name: SENTINEL_CONFIG
    value: /etc/sentinel/config/config.yaml
  - name: SENTINEL_SECRETS_DIR
    value: /etc/sentinel/secrets
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  {{- if eq .Values.mode "shared" }}
  - name: grpc
    containerPort: 50051
  {{- end }}
  - name: admin
    containerPort: 9180
{{- $scheme := "HTTP" }}
{{- if (default dict .Values.settings.admin).tls_cert_file }}{{ $scheme = "HTTPS" }}{{ end }}
startupProbe:
  httpGet: {path: /healthz, port: admin, scheme: {{ $scheme }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: admin, scheme: {{ $scheme }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: admin, scheme: {{ $scheme }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "sentinel.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: config
    mountPath: /etc/sentinel/config
    readOnly: true
  - name: secrets
    mountPath: /etc/sentinel/secrets
    readOnly: true
  {{- if and (eq .Values.mode "shared") .Values.tls.secretName }}
  - name: tls
    mountPath: /etc/sentinel/tls
    readOnly: true
  {{- end }}
  {{- if eq .Values.mode "sidecar" }}
  - name: sockets
    mountPath: /run/sentinel
  {{- end }}
  - name: outbox
    mountPath: /var/lib/sentinel
  - name: tmp
    mountPath: /tmp
{{- end }}

{{/* What both kinds of pod have. */}}
{{- define "sentinel.podMetadata" -}}
labels:
  {{- include "sentinel.selectorLabels" . | nindent 2 }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ ternary "envoy" "sentinel" (eq .Values.mode "sidecar") }}
  checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "sentinel.podCommon" -}}
serviceAccountName: {{ include "sentinel.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "sentinel.podSecurity" . | nindent 2 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if .Values.topologySpreadConstraints }}
  {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "sentinel.selectorLabels" . | nindent 8 }}
  {{- end }}
{{- end }}

{{- define "sentinel.volumes" -}}
- name: config
  configMap:
    name: {{ include "sentinel.fullname" . }}
- name: secrets
  secret:
    secretName: {{ .Values.secret.name }}
    defaultMode: 0440
{{- if and (eq .Values.mode "shared") .Values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ .Values.tls.secretName }}
    defaultMode: 0440
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- end }}
