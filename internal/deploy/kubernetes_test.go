package deploy_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// manifests are the objects of a hub on Kubernetes.
type manifests struct {
	namespace  corev1.Namespace
	deployment appsv1.Deployment
	service    corev1.Service
	budget     policyv1.PodDisruptionBudget
	network    networkingv1.NetworkPolicy
	account    corev1.ServiceAccount
	configs    map[string]corev1.ConfigMap
	secrets    map[string]corev1.Secret
}

// build builds a copy of the folder contrib/kubernetes/example as "kubectl apply -k" does. It
// decodes the objects into the types of Kubernetes, and allows no unknown field.
func build(t *testing.T, dir string) *manifests {
	t.Helper()
	all, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifests{configs: map[string]corev1.ConfigMap{}, secrets: map[string]corev1.Secret{}}
	for _, r := range all.Resources() {
		var config corev1.ConfigMap
		var secret corev1.Secret
		into, known := map[string]any{
			"v1 Namespace": &m.namespace, "apps/v1 Deployment": &m.deployment, "v1 Service": &m.service, "policy/v1 PodDisruptionBudget": &m.budget,
			"networking.k8s.io/v1 NetworkPolicy": &m.network, "v1 ServiceAccount": &m.account, "v1 ConfigMap": &config, "v1 Secret": &secret,
		}[r.GetApiVersion()+" "+r.GetKind()]
		if !known {
			t.Fatalf("the test does not know the object %s", r.CurId())
		}
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(text, into); err != nil {
			t.Fatalf("%s: %v", r.CurId(), err)
		}
		if r.GetNamespace() != "gangway" && r.GetKind() != "Namespace" {
			t.Errorf("%s is not in the namespace gangway", r.CurId())
		}
		if config.Name != "" {
			m.configs[config.Name] = config
		}
		if secret.Name != "" {
			m.secrets[secret.Name] = secret
		}
	}
	return m
}

// example returns the objects of the example, with placeholders for the files that the operator
// adds.
func example(t *testing.T) *manifests {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "kubernetes")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(repository, "contrib/kubernetes"))); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "example")
	if err := os.Mkdir(filepath.Join(dir, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "database-password", "pki/root.crt", "pki/root.key", "pki/aca.crt", "pki/aca.key", "pki/device-ca.crt", "pki/device-ca.key", "pki/seal.key"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return build(t, dir)
}

// The objects agree with each other: selectors match the pods, ports and references have their
// targets, and at least one replica stays when nodes are drained.
func TestKubernetesObjectsAgree(t *testing.T) {
	t.Parallel()
	m := example(t)
	template := m.deployment.Spec.Template
	pod := labels.Set(template.Labels)
	for name, selector := range map[string]*metav1.LabelSelector{
		"Deployment": m.deployment.Spec.Selector, "PodDisruptionBudget": m.budget.Spec.Selector, "NetworkPolicy": &m.network.Spec.PodSelector,
		"Service": {MatchLabels: m.service.Spec.Selector}, "topology": template.Spec.TopologySpreadConstraints[0].LabelSelector,
	} {
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil || s.Empty() || !s.Matches(pod) {
			t.Errorf("%s: the selector %v does not select exactly the pods %v: %v", name, selector, pod, err)
		}
	}
	ports := map[string]bool{}
	for _, p := range template.Spec.Containers[0].Ports {
		ports[p.Name] = true
	}
	if p := m.service.Spec.Ports[0]; !ports[p.TargetPort.StrVal] {
		t.Errorf("the service's port %v is not a port of the container", p.TargetPort)
	}
	for _, rule := range m.network.Spec.Ingress {
		for _, p := range rule.Ports {
			if !ports[p.Port.StrVal] {
				t.Errorf("the network policy's port %v is not a port of the container", p.Port)
			}
			if p.Port.StrVal == "metrics" && len(rule.From) == 0 {
				t.Error("anyone may read the metrics")
			}
		}
	}
	if n := *m.deployment.Spec.Replicas; int(n) <= m.budget.Spec.MinAvailable.IntValue() || m.budget.Spec.MinAvailable.IntValue() < 1 {
		t.Errorf("with %d replicas and minAvailable %s, no node can be drained without an interruption", n, m.budget.Spec.MinAvailable)
	}
	for _, name := range template.Spec.Volumes {
		if s := name.Secret; s != nil {
			if _, exists := m.secrets[s.SecretName]; !exists {
				t.Errorf("no Secret %s", s.SecretName)
			}
		}
	}
	grace := time.Duration(*template.Spec.TerminationGracePeriodSeconds) * time.Second
	if want := drain(t, m) + 10*time.Second; grace < want {
		t.Errorf("pods are killed %s after the signal to stop; the hub needs up to %s", grace, want)
	}
	ready := template.Spec.Containers[0].ReadinessProbe
	if notice := time.Duration(ready.PeriodSeconds*ready.FailureThreshold+ready.TimeoutSeconds) * time.Second; notice > drain(t, m) {
		t.Errorf("the readiness probe needs up to %s to notice that a pod stops, longer than --drain", notice)
	}
}

// drain returns the value of the hub's flag --drain.
func drain(t *testing.T, m *manifests) time.Duration {
	t.Helper()
	for _, arg := range m.deployment.Spec.Template.Spec.Containers[0].Args {
		if text, is := strings.CutPrefix(arg, "--drain="); is {
			d, err := time.ParseDuration(text)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	t.Fatal("no --drain")
	return 0
}

// The pods comply with the pod security standard "restricted", by Kubernetes' own checks, and get
// no token for the API.
func TestKubernetesPodsAreRestricted(t *testing.T) {
	t.Parallel()
	m := example(t)
	if m.namespace.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Error("the namespace does not enforce the standard")
	}
	checks, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	template := m.deployment.Spec.Template
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for _, result := range checks.EvaluatePod(restricted, &template.ObjectMeta, &template.Spec) {
		if !result.Allowed {
			t.Errorf("%s: %s", result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
	for who, token := range map[string]*bool{"the pod": template.Spec.AutomountServiceAccountToken, "the account": m.account.AutomountServiceAccountToken} {
		if token == nil || *token {
			t.Errorf("%s gets a token for the Kubernetes API", who)
		}
	}
	c := template.Spec.Containers[0]
	if !*c.SecurityContext.ReadOnlyRootFilesystem || c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
		t.Errorf("the container has no read-only root or no limits: %+v %+v", c.SecurityContext, c.Resources)
	}
}

// node runs pods as a kubelet does.
type node struct {
	t     *testing.T
	m     *manifests
	image *image
	hosts string
}

// pod returns the container of the deployment's pod, with new volumes.
func (n *node) pod() spec {
	n.t.Helper()
	p := n.m.deployment.Spec.Template.Spec
	c := p.Containers[0]
	s := spec{
		Name: "pod", Root: n.image.root, ReadOnly: *c.SecurityContext.ReadOnlyRootFilesystem, Dir: n.image.config.WorkingDir,
		Args: slices.Concat(n.image.config.Entrypoint, c.Args), Env: slices.Clone(n.image.config.Env),
		UID: int(*p.SecurityContext.RunAsUser), GID: int(*p.SecurityContext.RunAsGroup), Groups: []int{int(*p.SecurityContext.FSGroup)},
		Files: map[string]string{"/etc/hosts": n.hosts},
	}
	if len(c.Command) > 0 {
		s.Args = slices.Concat(c.Command, c.Args)
	}
	for _, from := range c.EnvFrom {
		values := map[string]string{}
		switch {
		case from.ConfigMapRef != nil:
			values = n.m.configs[from.ConfigMapRef.Name].Data
		case from.SecretRef != nil:
			values = text(n.m.secrets[from.SecretRef.Name].Data)
		}
		if len(values) == 0 {
			n.t.Errorf("%+v has no values", from)
		}
		for name, value := range values {
			s.Env = append(s.Env, name+"="+value)
		}
	}
	for _, v := range c.Env {
		s.Env = append(s.Env, v.Name+"="+v.Value)
	}
	for _, at := range c.VolumeMounts {
		i := slices.IndexFunc(p.Volumes, func(v corev1.Volume) bool { return v.Name == at.Name })
		if i < 0 || at.SubPath != "" {
			n.t.Fatalf("the volume of %+v is missing, or the test does not know it", at)
		}
		s.Mounts = append(s.Mounts, mount{Source: n.volume(p.Volumes[i], s.Groups[0]), Target: at.MountPath, ReadOnly: at.ReadOnly})
	}
	return s
}

// volume makes a volume with the owners and modes that a kubelet gives it: fsGroup is the group of
// all files. A Secret's files are links into a folder that the kubelet replaces at each change.
func (n *node) volume(v corev1.Volume, fsGroup int) string {
	n.t.Helper()
	dir := n.t.TempDir()
	check := func(err error) {
		n.t.Helper()
		if err != nil {
			n.t.Fatal(err)
		}
	}
	own := func(path string, mode os.FileMode) {
		n.t.Helper()
		check(os.Chown(path, 0, fsGroup))
		check(os.Chmod(path, mode))
	}
	files, mode := map[string]string{}, os.FileMode(0o644)
	switch {
	case v.EmptyDir != nil:
		own(dir, os.ModeSetgid|0o777)
		return dir
	case v.Secret != nil:
		files, mode = text(n.m.secrets[v.Secret.SecretName].Data), os.FileMode(*v.Secret.DefaultMode)
	case v.ConfigMap != nil:
		files = n.m.configs[v.ConfigMap.Name].Data
	}
	if len(files) == 0 {
		n.t.Fatalf("the volume %s has no files", v.Name)
	}
	check(os.Mkdir(filepath.Join(dir, "..2026_11_29"), 0o755))
	check(os.Symlink("..2026_11_29", filepath.Join(dir, "..data")))
	for name, content := range files {
		path := filepath.Join(dir, "..2026_11_29", name)
		check(os.WriteFile(path, []byte(content), 0o600))
		own(path, mode)
		check(os.Symlink("..data/"+name, filepath.Join(dir, name)))
	}
	own(filepath.Join(dir, "..2026_11_29"), os.ModeSetgid|0o775)
	own(dir, os.ModeSetgid|os.ModeSticky|0o777)
	return dir
}

func text(data map[string][]byte) map[string]string {
	all := map[string]string{}
	for name, value := range data {
		all[name] = string(value)
	}
	return all
}

// probe does what a kubelet does for an HTTP probe. The kubelet does not verify certificates.
func (n *node) probe(p *corev1.Probe) error {
	get := p.HTTPGet
	port := get.Port.IntValue()
	for _, named := range n.m.deployment.Spec.Template.Spec.Containers[0].Ports {
		if named.Name == get.Port.StrVal {
			port = int(named.ContainerPort)
		}
	}
	client := http.Client{
		Timeout:   max(time.Second, time.Duration(p.TimeoutSeconds)*time.Second),
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
	answer, err := client.Get(fmt.Sprintf("%s://127.0.0.1:%d%s", strings.ToLower(string(get.Scheme)), port, get.Path))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("%s: %s", answer.Status, body)
	}
	return nil
}

// start starts a pod, and waits until its startup probe and its readiness probe succeed.
func (n *node) start() *container {
	n.t.Helper()
	c := n.m.deployment.Spec.Template.Spec.Containers[0]
	pod := start(n.t, n.pod())
	pod.await(n.t, "started", func() error { return n.probe(c.StartupProbe) })
	pod.await(n.t, "ready", func() error { return n.probe(c.ReadinessProbe) })
	return pod
}

// cluster takes the place of kubectl and of a Kubernetes cluster for the commands of
// docs/operations.md.
type cluster struct {
	*node
	script *script
	images *images
	pod    *container
}

// The method `types` executes the script's next command as kubectl would do it. If the command runs
// a program in the pod or reads the pod's log, the method returns the output. The command must
// begin with `begins`. The test fails if `types` does not know the command.
func (c *cluster) types(begins string) string {
	c.t.Helper()
	line := c.script.next(begins)
	c.t.Logf("$ %s", line)
	if c.m != nil && (c.m.namespace.Name != "gangway" || c.m.deployment.Name != "gangway" || c.m.service.Name != "gangway") {
		c.t.Fatal("the objects of the manifests do not have the names that docs/operations.md uses")
	}
	const inPod = "kubectl -n gangway exec deployment/gangway -- "
	switch line {
	case "kubectl apply -k .":
		// In a cluster, a new pod is ready before an old pod stops. In the test, all pods have the same
		// network, so the old pod stops first.
		if c.pod != nil {
			c.ends(c.pod)
		}
		c.m = build(c.t, c.script.dir)
		c.image = c.images.pull(c.m.deployment.Spec.Template.Spec.Containers[0].Image)
		c.pod = c.start()
	case "kubectl -n gangway rollout status deployment/gangway":
		if err := c.probe(c.m.deployment.Spec.Template.Spec.Containers[0].ReadinessProbe); err != nil {
			c.t.Fatal(err)
		}
	case "kubectl -n gangway get service gangway":
		if s := c.m.service.Spec; s.Type != "LoadBalancer" || len(s.Ports) != 1 || s.Ports[0].Port != 12443 {
			c.t.Errorf("a cluster gives this service no address with the port 12443: %+v", s)
		}
	case "kubectl -n gangway get pods":
		for _, p := range []*corev1.Probe{c.m.deployment.Spec.Template.Spec.Containers[0].ReadinessProbe, c.m.deployment.Spec.Template.Spec.Containers[0].LivenessProbe} {
			if err := c.probe(p); err != nil {
				c.t.Errorf("the pod is not ready: %v", err)
			}
		}
	case "kubectl -n gangway logs deployment/gangway":
		return c.pod.out.tail()
	case "kubectl -n gangway delete deployment gangway":
		c.ends(c.pod)
		c.pod = nil
	case "kubectl -n gangway scale deployment/gangway --replicas=0":
		c.ends(c.pod)
		c.pod = nil
	case "kubectl label namespace monitoring gangway/metrics=allowed":
		c.admitsMetrics(map[string]string{"gangway/metrics": "allowed", "kubernetes.io/metadata.name": "monitoring"})
	case "kubectl delete -k .":
		build(c.t, c.script.dir)
		c.ends(c.pod)
		c.pod = nil
	default:
		words, is := strings.CutPrefix(line, inPod)
		if !is {
			c.t.Fatalf("the test does not know the command %q", line)
		}
		out, err := c.pod.exec(strings.Fields(words)...)
		if err != nil {
			c.t.Fatalf("%s: %v: %s", line, err, out)
		}
		return out
	}
	return ""
}

// ends stops a pod as a kubelet does.
func (c *cluster) ends(pod *container) {
	c.t.Helper()
	grace := time.Duration(*c.m.deployment.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
	if code := pod.stop(c.t, syscall.SIGTERM, grace); code != 0 {
		c.t.Errorf("the pod ended with %d: %s", code, pod.out.tail())
	}
}

// admitsMetrics checks that the NetworkPolicy lets pods read the metrics only if the pods'
// namespace has these labels.
func (c *cluster) admitsMetrics(namespace map[string]string) {
	c.t.Helper()
	for _, rule := range c.m.network.Spec.Ingress {
		if rule.Ports[0].Port.StrVal != "metrics" {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(rule.From[0].NamespaceSelector)
		if err != nil {
			c.t.Fatal(err)
		}
		if !selector.Matches(labels.Set(namespace)) || selector.Matches(labels.Set{}) {
			c.t.Errorf("the selector of the metrics is %v", selector)
		}
		return
	}
	c.t.Error("the network policy has no rule for the metrics")
}

// firstMachine is the machine on which an operator starts the hub for the first time. Its commands
// run in a container, because they name hosts that exist only in the test's network.
type firstMachine struct {
	*cluster
	files map[string]string
}

// The method `types` runs the script's next command in the machine's home folder, and returns a
// running container. The command begins with a program of the image, or with variables for it.
func (f *firstMachine) types(begins string) *container {
	f.t.Helper()
	line := f.script.next(begins)
	f.t.Logf("$ %s", line)
	environment, command, found := strings.Cut(line, "gangway ")
	if !found {
		f.t.Fatalf("%q does not run gangway", line)
	}
	command = f.script.expand(command)
	return start(f.t, spec{
		Name: "first machine", Root: f.image.root, Dir: "/home", UID: 65532, GID: 65532, Files: f.files,
		Args: slices.Concat(f.image.config.Entrypoint, strings.Fields(strings.ReplaceAll(command, `"`, ""))), Mounts: []mount{{Source: f.script.home, Target: "/home"}},
		Env: slices.Concat(f.image.config.Env, strings.Fields(environment), []string{"SSL_CERT_FILE=/home/ca.pem"}),
	})
}

// done waits for a command that must succeed, and returns what it has printed.
func (f *firstMachine) done(c *container) string {
	f.t.Helper()
	if code := c.wait(f.t, 2*time.Minute); code != 0 {
		f.t.Fatalf("the command ended with %d: %s", code, c.out.tail())
	}
	return c.out.all()
}

// The pod of the manifests runs: with its user, its read-only root, its settings, the keys from a
// Secret, PostgreSQL over verified TLS, and objects in S3. Its probes succeed when the hub is
// ready, and fail when the hub is not ready. A new pod with empty volumes has everything that the
// earlier pod had. A backup is restored into an empty database. The test does the work of kubectl
// for all commands of the chapter "Installing on Kubernetes".
func TestKubernetesPodRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs a hub and PostgreSQL in containers")
	}
	if os.Getenv("GANGWAY_E2E_FULL") == "" {
		t.Skip("make deploy-test runs it; TestComposeServicesRun runs the image in the same way")
	}
	if !ownNetwork(t) {
		return
	}
	ca := newCA(t)
	db := startDatabase(t, ca)
	startS3(t, ca)
	hosts := "127.0.0.1 localhost db.example s3.example hub.example\n"
	images := startRegistry(t, ca)
	archive := hubArchive(t)
	script := chapter(t, "Installing on Kubernetes")
	for name, text := range map[string]string{"ca.pem": ca.pem, "database-password": hubPassword + "\n"} {
		if err := os.WriteFile(filepath.Join(script.home, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(script.home, 65532, 65532); err != nil {
		t.Fatal(err)
	}
	uploads := script.next("skopeo copy oci-archive:")
	_, name, _ := strings.Cut(strings.Fields(uploads)[2], ":")
	if err := os.Rename(archive, filepath.Join(script.home, name)); err != nil {
		t.Fatal(err)
	}
	script.run("export SSL_CERT_FILE=ca.pem; " + uploads)
	c := &cluster{node: &node{t: t, image: images.pull("registry.example/gangway:1.2.0"), hosts: hosts}, script: script, images: images}
	f := &firstMachine{cluster: c, files: map[string]string{"/etc/hosts": hosts}}
	// docs/operations.md copies the CA's certificate to /etc, which a test must not change.
	installs := strings.Fields(script.next("install -D -m 644 ca.pem "))
	f.files[installs[len(installs)-1]] = ca.pem
	once := f.types("AWS_ACCESS_KEY_ID=")
	once.await(t, "ready", func() error {
		_, err := once.exec("/usr/bin/gangway", "ready", "--data", "/home/hub")
		return err
	})
	if code := once.stop(t, syscall.SIGTERM, 30*time.Second); code != 0 {
		t.Fatalf("the first start ended with %d: %s", code, once.out.tail())
	}
	script.vars["HUB_NAME"] = regexp.MustCompile(`\b[0-9a-f]{64}\b`).FindString(once.out.tail())
	script.until("kubectl")
	if err := os.WriteFile(filepath.Join(script.dir, "s3.env"), []byte("AWS_ACCESS_KEY_ID=key\nAWS_SECRET_ACCESS_KEY=secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.types("kubectl apply -k .")
	template := c.m.deployment.Spec.Template.Spec.Containers[0]
	c.types("kubectl -n gangway rollout status")
	c.pod.checkConfined(t)
	c.types("kubectl -n gangway exec deployment/gangway -- gangway account create")
	c.types("kubectl -n gangway get service gangway")
	c.types("kubectl -n gangway get pods")
	if out := c.types("kubectl -n gangway exec deployment/gangway -- gangway ready"); out != "ready\n" {
		t.Errorf("gangway ready prints %s", out)
	}
	if out := c.types("kubectl -n gangway logs"); !strings.Contains(out, hubURL) {
		t.Errorf("the log is %s", out)
	}
	answer, err := http.Get("http://127.0.0.1:12444/metrics")
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("GET /metrics: %v, %v", answer, err)
	} else {
		answer.Body.Close()
	}

	db.stop(t, syscall.SIGINT, time.Minute)
	if err := c.probe(template.ReadinessProbe); err == nil {
		t.Error("the pod is ready without its database")
	}
	if err := c.probe(template.LivenessProbe); err != nil {
		t.Errorf("without the database, the kubelet would restart the pod: %v", err)
	}
	db = start(t, db.spec)
	c.pod.await(t, "ready again", func() error { return c.probe(template.ReadinessProbe) })

	if err := c.pod.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.pod.await(t, "not ready after the signal to stop", func() error {
		if c.probe(template.ReadinessProbe) == nil {
			return fmt.Errorf("it is ready")
		}
		return nil
	})
	if code := c.pod.wait(t, time.Duration(*c.m.deployment.Spec.Template.Spec.TerminationGracePeriodSeconds)*time.Second); code != 0 {
		t.Errorf("the pod ended with %d: %s", code, c.pod.out.tail())
	}
	hasAda := func() {
		t.Helper()
		out, err := c.pod.exec("/usr/bin/gangway", "account", "ls", "--data", "/var/lib/gangway/hub")
		if err != nil || !strings.Contains(out, "ada") {
			t.Errorf("the new pod has the accounts\n%s%v", out, err)
		}
	}
	c.pod = nil
	c.types("kubectl apply -k .") // the upgrade
	c.types("kubectl -n gangway rollout status")
	hasAda()

	identity := filepath.Join(script.home, "backup.key")
	key, err := exec.Command(program(t, "gangway"), "backup", "key", identity).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, key)
	}
	script.vars["RECIPIENT"] = regexp.MustCompile(`age1[0-9a-z]+`).FindString(string(key))
	f.done(f.types("AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret gangway backup"))
	// The shell's part of the next command writes what the program prints to a file.
	line, to, _ := strings.Cut(script.lines[0], " > ")
	script.lines[0] = line
	events := f.done(f.types("gangway events"))
	here := script.dir
	script.dir = script.home
	script.save(to, events)
	c.types("kubectl -n gangway delete deployment gangway")
	for _, sql := range []string{"DROP DATABASE gangway", "CREATE DATABASE gangway OWNER hub ENCODING 'UTF8' TEMPLATE template0"} {
		superuser := db.command("/usr/bin/psql", "-h", "/run/postgresql", "-U", "postgres", "-c", sql)
		superuser.Env = append(superuser.Env, "PGPASSWORD=another long password")
		if out, err := superuser.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	script.run(script.next("mv hub hub.old"))
	backups, err := filepath.Glob(filepath.Join(script.home, "backup/*.gangway-backup"))
	if err != nil || len(backups) != 1 {
		t.Fatalf("the backups are %q, %v", backups, err)
	}
	script.run("chown 65532:65532 backup.key since.jsonl .") // the operator is one user; in the test, the machine's user is not root
	script.lines[0] = strings.Replace(script.lines[0], "$(ls ./backup/*.gangway-backup | tail -n 1)", "./backup/"+filepath.Base(backups[0]), 1)
	f.done(f.types("AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret gangway restore"))
	script.dir = here
	script.run(script.next("cp -r ~/hub/pki pki.new"))
	c.types("kubectl apply -k .")
	c.types("kubectl -n gangway rollout status")
	hasAda()
	c.types("kubectl -n gangway scale deployment/gangway --replicas=0")
	c.types("kubectl apply -k .")
	hasAda()
	c.types("kubectl label namespace monitoring")
	c.types("kubectl delete -k .")
	script.done()
}
