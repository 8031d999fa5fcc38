package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// credentialAPI is the kubelet's protocol for plugins that get credentials for images
// (https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/).
const credentialAPI = "credentialprovider.kubelet.k8s.io/v1"

// credentialsFor is how long the kubelet keeps what it was given. It makes a new token of the ServiceAccount in time.
const credentialsFor = 5 * time.Minute

// tokenUser is the user name beside a token, which says by itself whose it is.
const tokenUser = "token"

type credentialRequest struct {
	APIVersion          string `json:"apiVersion"`
	Kind                string `json:"kind"`
	Image               string `json:"image"`
	ServiceAccountToken string `json:"serviceAccountToken"`
}

type credentialResponse struct {
	APIVersion    string                `json:"apiVersion"`
	Kind          string                `json:"kind"`
	CacheKeyType  string                `json:"cacheKeyType"`
	CacheDuration string                `json:"cacheDuration"`
	Auth          map[string]credential `json:"auth"`
}

type credential struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

func newCredentialProviderCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "credential-provider",
		Short: "Give the kubelet the credentials of a Pod's ServiceAccount",
		Long: `Give the kubelet the credentials for an image: the token of the Pod's ServiceAccount, which the kubelet makes for the
registry's audience. A plugin of the kubelet, which reads a request and writes the answer; it talks to nobody.

docs/identities.md says how to configure it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return provideCredentials(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func provideCredentials(in io.Reader, out io.Writer) error {
	var request credentialRequest
	if err := json.NewDecoder(in).Decode(&request); err != nil {
		return fmt.Errorf("reading the kubelet's request: %w", err)
	}
	if request.APIVersion != credentialAPI || request.Kind != "CredentialProviderRequest" {
		return fmt.Errorf("the kubelet asks with %s %s; this is a plugin for %s CredentialProviderRequest", request.APIVersion, request.Kind, credentialAPI)
	}
	host, _, found := strings.Cut(request.Image, "/")
	if !found {
		return fmt.Errorf("image %s names no registry", request.Image)
	}
	if request.ServiceAccountToken == "" {
		return errors.New("the kubelet gives no token of a ServiceAccount: set tokenAttributes.serviceAccountTokenAudience in its CredentialProviderConfig")
	}
	return json.NewEncoder(out).Encode(credentialResponse{
		APIVersion: credentialAPI, Kind: "CredentialProviderResponse", CacheKeyType: "Registry", CacheDuration: credentialsFor.String(),
		Auth: map[string]credential{host: {Username: tokenUser, Password: request.ServiceAccountToken}},
	})
}
