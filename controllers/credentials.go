package controllers

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// What an Opaque Secret may hold. Those of the other types are Kubernetes' own.
const (
	keyToken    = "token"
	keyUsername = corev1.BasicAuthUsernameKey
	keyPassword = corev1.BasicAuthPasswordKey
)

// acceptedSecrets says which Secrets have credentials for an upstream.
const acceptedSecrets = "type kubernetes.io/basic-auth with username and password, type kubernetes.io/dockerconfigjson with an entry for the upstream's host, or type Opaque with token, or with username and password"

// upstreamCredentials reads the credentials for an upstream's address out of a Secret. Errors name keys, never values.
func upstreamCredentials(secret *corev1.Secret, upstream, namespace string) (c openapi.MirrorSecrets, err error) {
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		return dockerCredentials(secret.Data[corev1.DockerConfigJsonKey], upstream, namespace)
	case corev1.SecretTypeOpaque, "":
		if token := strings.TrimSpace(string(secret.Data[keyToken])); token != "" {
			return openapi.MirrorSecrets{Token: domain.GivenSecret(token)}, nil
		}
		if len(secret.Data[keyUsername])+len(secret.Data[keyPassword]) == 0 {
			return c, fmt.Errorf("it has neither the key %s, nor %s and %s", keyToken, keyUsername, keyPassword)
		}
	case corev1.SecretTypeBasicAuth:
	default:
		return c, fmt.Errorf("it is of type %s; what can be used is %s", secret.Type, acceptedSecrets)
	}
	username, password, err := basicCredentials(secret)
	return openapi.MirrorSecrets{Username: username, Password: domain.GivenSecret(password)}, err
}

// basicCredentials reads user name and password. Files that were made into a Secret often end with a new line, which
// belongs to neither.
func basicCredentials(secret *corev1.Secret) (username, password string, err error) {
	if secret.Type != corev1.SecretTypeBasicAuth && secret.Type != corev1.SecretTypeOpaque && secret.Type != "" {
		return "", "", fmt.Errorf("it is of type %s; what can be used is type %s, or %s with the same keys", secret.Type, corev1.SecretTypeBasicAuth, corev1.SecretTypeOpaque)
	}
	read := func(key string) string {
		value := strings.TrimRight(string(secret.Data[key]), "\r\n")
		if value == "" && err == nil {
			err = fmt.Errorf("the key %s is missing or empty", key)
		}
		return value
	}
	return read(keyUsername), read(keyPassword), err
}

// dockerAuth is an entry of a Docker configuration.
type dockerAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	RegistryToken string `json:"registrytoken"`
	IdentityToken string `json:"identitytoken"`
}

// dockerCredentials reads the entry for an upstream out of a Docker configuration. Of several, the one for the most of
// host and namespace counts, as container runtimes have it.
func dockerCredentials(config []byte, upstream, namespace string) (c openapi.MirrorSecrets, err error) {
	var file struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	if json.Unmarshal(config, &file) != nil { // whose text repeats what it could not read
		return c, fmt.Errorf("the key %s holds no Docker configuration", corev1.DockerConfigJsonKey)
	}
	target, err := url.Parse(upstream)
	if err != nil {
		return c, errors.New("the upstream's address cannot be read")
	}
	host := dockerHost(target)
	var entry *dockerAuth
	longest := -1
	for key, auth := range file.Auths {
		of, path := dockerKey(key, target.Scheme)
		if of == host && (path == "" || namespace == path || strings.HasPrefix(namespace, path+"/")) && len(path) > longest {
			entry, longest = &auth, len(path)
		}
	}
	if entry == nil {
		return c, fmt.Errorf("the key %s has no entry for %s", corev1.DockerConfigJsonKey, target.Host)
	}
	if entry.RegistryToken != "" {
		return openapi.MirrorSecrets{Token: domain.GivenSecret(entry.RegistryToken)}, nil
	}
	username, password := entry.Username, entry.Password
	if entry.Auth != "" {
		decoded, err := base64.StdEncoding.DecodeString(entry.Auth)
		user, word, ok := strings.Cut(string(decoded), ":")
		if err != nil || !ok {
			return c, fmt.Errorf("the entry for %s in the key %s has an auth that is not user:password in base64", target.Host, corev1.DockerConfigJsonKey)
		}
		username, password = user, strings.TrimRight(word, "\x00")
	}
	switch {
	case username != "" && password != "":
		return openapi.MirrorSecrets{Username: username, Password: domain.GivenSecret(password)}, nil
	case entry.IdentityToken != "":
		return c, fmt.Errorf("the entry for %s in the key %s has an identity token, which cannot be used: user name and password are needed", target.Host, corev1.DockerConfigJsonKey)
	}
	return c, fmt.Errorf("the entry for %s in the key %s has no user name and password", target.Host, corev1.DockerConfigJsonKey)
}

// dockerHost is the host of an address as entries are compared: with a port, and Docker Hub under one name.
func dockerHost(address *url.URL) string {
	host, port := strings.ToLower(address.Hostname()), address.Port()
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = "docker.io"
	}
	if port == "" {
		port = "443"
		if address.Scheme == "http" {
			port = "80"
		}
	}
	return net.JoinHostPort(host, port)
}

// dockerKey reads the key of an entry: a host, or an address whose path is a namespace, or /v1/ or /v2/ for none. A key
// without a scheme is about the scheme of the upstream.
func dockerKey(key, scheme string) (host, path string) {
	if !strings.Contains(key, "://") {
		key = scheme + "://" + key
	}
	address, err := url.Parse(key)
	if err != nil {
		return "", ""
	}
	path = strings.Trim(address.Path, "/")
	if path == "v1" || path == "v2" {
		path = ""
	}
	return dockerHost(address), path
}
