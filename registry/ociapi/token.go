package ociapi

import (
	"net/http"
	"net/url"
	"time"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
)

// maxTokenForm bounds the form of a token request, in bytes.
const maxTokenForm = 64 << 10

// tokenBody is the answer of the token endpoint: the Docker Registry token specification and its OAuth2 form
// (https://distribution.github.io/distribution/spec/auth/token/, …/oauth/) have the token under different names.
type tokenBody struct {
	Token       string `json:"token"`
	AccessToken string `json:"access_token"`
	Scope       string `json:"scope"`
	// ExpiresIn is in seconds.
	ExpiresIn    int    `json:"expires_in"`
	IssuedAt     string `json:"issued_at"`
	RefreshToken string `json:"refresh_token,omitempty"`
}

// getToken gives a token to whoever the request's credentials name, or to anybody for what is public. Less than what was
// asked for is no error: the token says what was granted.
func (a *API) getToken(r *request) (answer, error) {
	if r.identity.Scopes != nil {
		return answer{}, domain.Errorf(domain.CodeUnauthorized, "a token gives no other token; log in with name and password")
	}
	return a.token(r, r.identity, auth.TokenRequest{Scopes: r.URL.Query()["scope"]})
}

// postToken is the OAuth2 form (RFC 6749, sections 4.3 and 6): credentials or a refresh token in the body.
func (a *API) postToken(r *request) (answer, error) {
	form, err := readForm(r)
	if err != nil {
		return answer{}, err
	}
	var identity auth.Identity
	address := a.auth.ClientAddress(r.Request)
	request := auth.TokenRequest{Scopes: form["scope"]}
	switch grant := form.Get("grant_type"); grant {
	case "password":
		request.Refresh = form.Get("access_type") == "offline"
		identity, err = a.auth.Login(r.Context(), form.Get("username"), form.Get("password"), address)
	case "refresh_token":
		identity, err = a.auth.Refresh(r.Context(), form.Get("refresh_token"), address)
	default:
		return answer{}, domain.Errorf(domain.CodeInvalid, "grant_type %q is not supported; use password or refresh_token", grant)
	}
	if err != nil {
		return answer{}, err
	}
	return a.token(r, identity, request)
}

// readForm reads the body as a form.
func readForm(r *request) (url.Values, error) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxTokenForm)
	if err := r.ParseForm(); err != nil {
		return nil, domain.Errorf(domain.CodeInvalid, "the body is no form of at most %d bytes", maxTokenForm)
	}
	return r.PostForm, nil
}

func (a *API) token(r *request, identity auth.Identity, request auth.TokenRequest) (answer, error) {
	issued, err := a.auth.Issue(r.Context(), identity, request)
	if err != nil {
		return answer{}, err
	}
	result, err := document(tokenBody{
		Token: issued.Token, AccessToken: issued.Token, Scope: issued.Scope, ExpiresIn: int(issued.ExpiresIn / time.Second),
		IssuedAt: issued.IssuedAt.Format(time.RFC3339), RefreshToken: issued.RefreshToken,
	}, "application/json", "")
	if err == nil {
		result.header.Set("Cache-Control", "no-store")
	}
	return result, err
}

// keys are the public keys by which others can verify tokens.
func (a *API) keys(r *request) (answer, error) {
	keys, err := a.auth.Keys(r.Context())
	if err != nil {
		return answer{}, err
	}
	return document(keys, "application/jwk-set+json", "")
}
