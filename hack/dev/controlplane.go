package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// startTimeout is how long each part may take to be ready, on a slow machine.
const startTimeout = 2 * time.Minute

// operatorUser is the ServiceAccount of config/rbac: the admission policies there know the operator by its name.
const operatorUser = "system:serviceaccount:tidelock-system:tidelock"

// operatorKubeconfig is the file with which the operator comes to the local control plane.
func operatorKubeconfig(s settings) string {
	return filepath.Join(s.dir, "kubernetes", "operator.kubeconfig")
}

// startControlPlane starts etcd and kube-apiserver, waits until they are ready and writes kubeconfigs, for an
// administrator and for the operator. It is a control plane without controllers: objects can be stored and watched, but Pods do not run, and
// a Namespace that is deleted never goes.
func startControlPlane(ctx context.Context, s settings, p *processes) (kubeconfig string, err error) {
	assets := filepath.Join(s.bin, "k8s", "current")
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		assets = dir
	}
	dir := filepath.Join(s.dir, "kubernetes")
	certificates := filepath.Join(dir, "certificates")
	// Made anew by kube-apiserver at each start, so that they never expire.
	if err := errors.Join(os.RemoveAll(certificates), os.MkdirAll(dir, 0o700)); err != nil {
		return "", err
	}
	etcd, err := freeAddress(ctx)
	if err != nil {
		return "", err
	}
	err = p.start("etcd", filepath.Join(assets, "etcd"),
		"--data-dir="+filepath.Join(dir, "etcd"),
		"--listen-client-urls=http://"+etcd, "--advertise-client-urls=http://"+etcd, "--listen-peer-urls=http://127.0.0.1:0")
	if err != nil {
		return "", err
	}
	if err := p.until(ctx, startTimeout, func(ctx context.Context) error { return get(ctx, http.DefaultClient, "http://"+etcd+"/health", "") }); err != nil {
		return "", fmt.Errorf("etcd: %w", err)
	}

	address, err := freeAddress(ctx)
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(address)
	key := filepath.Join(dir, "service-account.key")
	if err := ensureKey(key); err != nil {
		return "", err
	}
	token, operatorToken, tokens := rand.Text(), rand.Text(), filepath.Join(dir, "tokens.csv")
	users := token + ",admin,admin,system:masters\n" +
		operatorToken + "," + operatorUser + ",operator,\"system:serviceaccounts,system:serviceaccounts:tidelock-system\"\n"
	if err := os.WriteFile(tokens, []byte(users), 0o600); err != nil {
		return "", err
	}
	err = p.start("kube-apiserver", filepath.Join(assets, "kube-apiserver"),
		"--etcd-servers=http://"+etcd,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+port, "--cert-dir="+certificates,
		"--token-auth-file="+tokens, "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none",
		// Nobody makes the ServiceAccounts that this one asks for.
		"--disable-admission-plugins=ServiceAccount")
	if err != nil {
		return "", err
	}
	var ca []byte
	ready := func(ctx context.Context) error {
		if ca, err = os.ReadFile(filepath.Join(certificates, "apiserver.crt")); err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
		return get(ctx, client, "https://"+address+"/readyz", token)
	}
	if err := p.until(ctx, startTimeout, ready); err != nil {
		return "", fmt.Errorf("kube-apiserver: %w", err)
	}
	kubeconfig = filepath.Join(s.dir, "kubeconfig")
	write := func(path, user, token string) error {
		return os.WriteFile(path, fmt.Appendf(nil, kubeconfigFormat, user, address, base64.StdEncoding.EncodeToString(ca), user, token), 0o600)
	}
	return kubeconfig, errors.Join(write(kubeconfig, "admin", token), write(operatorKubeconfig(s), "operator", operatorToken))
}

// kubeconfigFormat takes a user, the API server's address, its CA in base64, the user and the token.
const kubeconfigFormat = `apiVersion: v1
kind: Config
current-context: tidelock-dev
contexts:
- name: tidelock-dev
  context: {cluster: tidelock-dev, user: %s, namespace: team-a}
clusters:
- name: tidelock-dev
  cluster:
    server: https://%s
    certificate-authority-data: %s
users:
- name: %s
  user:
    token: %s
`

// ensureKey makes the key that signs tokens of ServiceAccounts. It stays, so that those given out before stay good.
func ensureKey(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600)
}

// get asks for a page and returns an error unless the answer is 200.
func get(ctx context.Context, client *http.Client, url, token string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", url, response.Status, body)
	}
	return err
}
