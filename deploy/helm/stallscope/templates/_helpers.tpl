{{- define "stallscope.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "stallscope.fullname" -}}
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

{{- define "stallscope.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{/* The name of what belongs to no namespace: two releases of one name must not share it. */}}
{{- define "stallscope.clusterName" -}}
{{- printf "%s-%s" (include "stallscope.namespace" .) (include "stallscope.fullname" .) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "stallscope.selectorLabels" -}}
app.kubernetes.io/name: {{ include "stallscope.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What selects the pods wins over labels of the same name. */}}
{{- define "stallscope.labels" -}}
{{- $own := include "stallscope.selectorLabels" . | fromYaml }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service }}
{{- toYaml (merge $own .Values.commonLabels) }}
{{- end }}

{{/* The labels of all objects and further ones of this one; takes a list of the root and those. */}}
{{- define "stallscope.labelsWith" -}}
{{- toYaml (merge (include "stallscope.labels" (first .) | fromYaml) (deepCopy (last .))) }}
{{- end }}

{{/* Without the chart's version: another chart alone is no reason to restart the agents. */}}
{{- define "stallscope.podLabels" -}}
{{- $own := include "stallscope.labels" . | fromYaml }}
{{- toYaml (merge (omit $own "helm.sh/chart" "app.kubernetes.io/managed-by") .Values.podLabels) }}
{{- end }}

{{- define "stallscope.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "stallscope.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "stallscope.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* What the schema cannot say: values that contradict each other. */}}
{{- define "stallscope.check" -}}
{{- if and .Values.seriesPodLabels (ne .Values.podSource "api") }}
{{- fail (printf "seriesPodLabels needs podSource: api, and it is %s: only the API knows labels of pods" .Values.podSource) }}
{{- end }}
{{- range $label := list "workload" "workload_type" }}
{{- if and (has $label $.Values.seriesLabels) (ne $.Values.podSource "api") }}
{{- fail (printf "seriesLabels: %s needs podSource: api, and it is %s: only the API knows workloads" $label $.Values.podSource) }}
{{- end }}
{{- end }}
{{- if and .Values.nestedPods .Values.kubeletCgroupRoots }}
{{- fail "nestedPods and kubeletCgroupRoots contradict each other: pods anywhere, or in these cgroups only" }}
{{- end }}
{{- if and .Values.kubeApi.url (ne .Values.podSource "api") }}
{{- fail (printf "kubeApi.url is used with podSource: api only, and it is %s" .Values.podSource) }}
{{- end }}
{{- if and .Values.hostNetwork (hasKey .Values.updateStrategy "rollingUpdate") }}
{{- $surge := toString (get (default dict .Values.updateStrategy.rollingUpdate) "maxSurge" | default 0) }}
{{- if not (has $surge (list "0" "0%")) }}
{{- fail "updateStrategy.rollingUpdate.maxSurge must be 0 with hostNetwork: two agents cannot listen on one port" }}
{{- end }}
{{- end }}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}
{{- fail "podMonitor and serviceMonitor are both enabled: every series would be scraped twice; choose one" }}
{{- end }}
{{- if kindIs "slice" .Values.hostPaths.cgroup }}
{{- $first := first .Values.hostPaths.cgroup }}
{{- if not (has (base $first) (list "cpu" "cpu,cpuacct" "cpuacct,cpu")) }}
{{- fail (printf "hostPaths.cgroup must begin with the mount of the cpu controller, such as /sys/fs/cgroup/cpu, and begins with %s" $first) }}
{{- end }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not .Values.service.enabled) }}
{{- fail "serviceMonitor needs service.enabled: true" }}
{{- end }}
{{- end }}

{{/* What the cluster is: as Helm knows it, or as the values say. */}}
{{- define "stallscope.kubeVersion" -}}
{{- default .Capabilities.KubeVersion.Version .Values.kubeVersionOverride }}
{{- end }}

{{/* Older API servers do not know the field: kubectl refuses it for them. */}}
{{- define "stallscope.recursiveReadOnly" -}}
{{- if ne .Values.recursiveReadOnly "auto" }}
{{- .Values.recursiveReadOnly }}
{{- else if semverCompare ">=1.31.0-0" (include "stallscope.kubeVersion" .) }}
{{- "IfPossible" }}
{{- end }}
{{- end }}

{{/* Where the node's cgroups are mounted: one folder with all, or controllers of version 1 each by itself, below it. */}}
{{- define "stallscope.cgroupMounts" -}}
{{- $root := "/host/sys/fs/cgroup" }}
{{- $paths := .Values.hostPaths.cgroup }}
{{- if and (kindIs "string" $paths) (has (base $paths) (list "cpu" "cpu,cpuacct" "cpuacct,cpu")) }}
{{- $paths = list $paths }}
{{- end }}
{{- $mounts := list }}
{{- if kindIs "string" $paths }}
{{- $mounts = list (dict "name" "cgroup" "path" $paths "mountPath" $root) }}
{{- else }}
{{- range $paths }}
{{- $name := printf "cgroup-%s" (base . | replace "," "-" | replace "_" "-") }}
{{- $mounts = append $mounts (dict "name" $name "path" . "mountPath" (printf "%s/%s" $root (base .))) }}
{{- end }}
{{- end }}
{{- toYaml $mounts }}
{{- end }}

{{/* Whether there is a NetworkPolicy: "true" or nothing. */}}
{{- define "stallscope.networkPolicy" -}}
{{- $policy := .Values.networkPolicy }}
{{- if kindIs "invalid" $policy.enabled }}
{{- $named := or $policy.ingressFrom $policy.scraper.namespaces .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}
{{- if and $named (not .Values.hostNetwork) }}true{{ end }}
{{- else if $policy.enabled }}true{{ end }}
{{- end }}

{{- define "stallscope.args" -}}
- run
- --listen={{ .Values.listen.address }}:{{ .Values.listen.port }}
{{- range .Values.allowedHosts }}
- {{ printf "--allowed-host=%s" . | quote }}
{{- end }}
- --cgroup-root=/host/sys/fs/cgroup
- --pod-source={{ .Values.podSource }}
{{- if has .Values.podSource (list "auto" "files") }}
- --kubelet-logs=/var/log
{{- end }}
{{- if eq .Values.podSource "api" }}
- --node-name=$(NODE_NAME)
{{- with .Values.kubeApi.url }}
- --kube-api={{ . }}
{{- end }}
{{- end }}
{{- if eq .Values.podSource "cri" }}
- --cri-socket={{ .Values.criSocket }}
{{- end }}
{{- range .Values.kubeletCgroupRoots }}
- {{ printf "--kubelet-cgroup-root=%s" . | quote }}
{{- end }}
{{- if .Values.nestedPods }}
- --nested-pods
{{- end }}
{{- $labels := .Values.seriesLabels }}
{{- range .Values.seriesPodLabels }}
{{- $labels = append $labels (printf "label:%s" .) }}
{{- end }}
- --labels={{ join "," $labels }}
- --max-series={{ int64 .Values.maxSeries }}
- --max-owners={{ int64 .Values.maxOwners }}
{{- with .Values.slots }}
- --slots={{ int64 . }}
{{- end }}
- --history={{ .Values.history }}
- --history-memory={{ int64 .Values.historyMemory }}
{{- if .Values.doctorRoot }}
- --doctor-root=/host
{{- end }}
{{- if .Values.dropCapabilities }}
- --drop-capabilities
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "stallscope.capabilities" -}}
{{- $add := list "BPF" "PERFMON" }}
{{- if .Values.capabilities.sysResource }}
{{- $add = append $add "SYS_RESOURCE" }}
{{- end }}
{{- if .Values.capabilities.sysAdmin }}
{{- $add = append $add "SYS_ADMIN" }}
{{- end -}}
drop: [ALL]
add: [{{ join ", " $add }}]
{{- end }}

{{/* What the two kinds of monitors share; takes the root and the monitor's values. */}}
{{- define "stallscope.endpoint" -}}
- port: metrics
  path: /metrics
  # The labels namespace, pod and container are those of what is measured, and must win over the agent's own.
  honorLabels: true
  interval: {{ .monitor.interval }}
  scrapeTimeout: {{ .monitor.scrapeTimeout }}
  {{- with .monitor.relabelings }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "stallscope.sampleLimit" -}}
{{- if kindIs "invalid" .monitor.sampleLimit }}
{{- add (int64 .root.Values.maxSeries) 5000 }}
{{- else }}
{{- int64 .monitor.sampleLimit }}
{{- end }}
{{- end }}
