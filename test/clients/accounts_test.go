package clients

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// userPassword is the password of the users in these specs.
const userPassword = "a user's own password"

// manage calls the management API as admin and reads the answer.
func manage(method, path, body string, answer any) {
	GinkgoHelper()
	response, content := call(method, "/api/v1"+path, "application/json", []byte(body))
	Expect(response.StatusCode).To(And(BeNumerically(">=", 200), BeNumerically("<", 300)), string(content))
	if answer != nil {
		Expect(json.Unmarshal(content, answer)).To(Succeed())
	}
}

// account is somebody who may write to one repository, organization/mine, and read another, organization/readable.
type account struct{ name, secret string }

// newAccounts makes an organization with its repositories, and a user and a robot of it.
func newAccounts(organization string) []account {
	GinkgoHelper()
	for _, repository := range []string{"mine", "readable", "others"} {
		newImage().push(organization+"/"+repository, "there")
	}
	manage("POST", "/superuser/users/", `{"username": "`+organization+`-user", "password": "`+userPassword+`"}`, nil)
	var robot struct{ Name, Token string }
	manage("PUT", "/organization/"+organization+"/robots/ci", "", &robot)
	list := []account{{organization + "-user", userPassword}, {robot.Name, robot.Token}}
	for _, a := range list {
		manage("PUT", "/repository/"+organization+"/mine/permissions/user/"+a.name, `{"role": "write"}`, nil)
		manage("PUT", "/repository/"+organization+"/readable/permissions/user/"+a.name, `{"role": "read"}`, nil)
	}
	return list
}

var _ = Describe("client", func() {
	for _, c := range clients {
		It(c.name+" works for users and robots as far as their rights go, and for anybody where it is public", func() {
			organization := c.name + "-accounts"
			for _, a := range newAccounts(organization) {
				m := newMachine()
				Expect(c.login(m, a.name, "wrong")).NotTo(Succeed())
				Expect(c.login(m, a.name, a.secret)).To(Succeed())
				pushed := newImage()
				_, err := c.push(m, pushed.layout(), organization+"/mine:pushed")
				Expect(err).NotTo(HaveOccurred())
				Expect(tagDigest(organization+"/mine", "pushed")).NotTo(BeEmpty())
				fetches := func(repository string) error { return c.fetch(m, organization+"/"+repository+":there") }
				Expect(fetches("mine")).To(Succeed())
				Expect(fetches("readable")).To(Succeed())

				for _, repository := range []string{"readable", "others", "new"} {
					out, err := c.push(m, newImage().layout(), organization+"/"+repository+":pushed")
					Expect(err).To(HaveOccurred(), repository)
					Expect(strings.ToLower(out)).To(Or(ContainSubstring("denied"), ContainSubstring("unauthorized"), ContainSubstring("forbidden")))
					Expect(tagDigest(organization+"/"+repository, "pushed")).To(BeEmpty())
				}
				Expect(fetches("others")).NotTo(Succeed())
				if c.copy != nil {
					_, err := c.copy(m, organization+"/readable:there", organization+"/mine:copied")
					Expect(err).NotTo(HaveOccurred(), "a mount needs a token for both")
					_, err = c.copy(m, organization+"/others:there", organization+"/mine:stolen")
					Expect(err).To(HaveOccurred())
				}
				if c.deleteTag != nil {
					out, err := c.deleteTag(m, organization+"/mine:pushed")
					Expect(err).NotTo(HaveOccurred(), out)
				}
			}

			stranger := newMachine()
			// podman wants its file of logins to be there.
			Expect(os.WriteFile(filepath.Join(stranger.home, "auth.json"), []byte("{}"), 0o600)).To(Succeed())
			if c.name == "regctl" {
				stranger.must(built("regctl"), "registry", "set", host, "--tls", "disabled", "--skip-check")
			}
			Expect(c.fetch(stranger, organization+"/others:there")).NotTo(Succeed())
			manage("POST", "/repository/"+organization+"/others/changevisibility", `{"visibility": "public"}`, nil)
			Eventually(func() error { return c.fetch(stranger, organization+"/others:there") }).WithTimeout(commandTimeout).Should(Succeed())
		})
	}

	It("helm works for users and robots as far as their rights go", func() {
		helm := built("helm")
		for _, a := range newAccounts("helm-accounts") {
			m := newMachine()
			login := func(password string) error {
				return failure(m.run(helm, "registry", "login", host, "--plain-http", "-u", a.name, "-p", password))
			}
			Expect(login("wrong")).NotTo(Succeed())
			Expect(login(a.secret)).To(Succeed())
			m.must(helm, "create", "mine")
			m.must(helm, "package", "mine")
			m.must(helm, "push", "mine-0.1.0.tgz", "oci://"+host+"/helm-accounts", "--plain-http")
			target := GinkgoT().TempDir()
			m.must(helm, "pull", "oci://"+host+"/helm-accounts/mine", "--version", "0.1.0", "--plain-http", "--destination", target)
			Expect(filepath.Join(target, "mine-0.1.0.tgz")).To(BeARegularFile())
			Expect(os.Rename(filepath.Join(m.home, "mine"), filepath.Join(m.home, "others"))).To(Succeed())
			m.must("sed", "-i", "s/^name: mine/name: others/", filepath.Join(m.home, "others", "Chart.yaml"))
			m.must(helm, "package", "others")
			out, err := m.run(helm, "push", "others-0.1.0.tgz", "oci://"+host+"/helm-accounts", "--plain-http")
			Expect(err).To(HaveOccurred())
			Expect(strings.ToLower(out)).To(Or(ContainSubstring("denied"), ContainSubstring("unauthorized"), ContainSubstring("403"), ContainSubstring("401")))
			Expect(tagDigest("helm-accounts/others", "0.1.0")).To(BeEmpty())
			m.must(helm, "registry", "logout", host)
		}
	})

	It("docker's OAuth2 login gets a refresh token that goes on to work", func() {
		robot := newAccounts("oauth-accounts")[1]
		response, err := http.PostForm("http://"+host+"/v2/auth", map[string][]string{
			"grant_type": {"password"}, "service": {"tidelock"}, "client_id": {"docker"}, "access_type": {"offline"},
			"username": {robot.name}, "password": {robot.secret}, "scope": {"repository:oauth-accounts/mine:pull,push"},
		})
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = response.Body.Close() }()
		var answer struct {
			AccessToken  string `json:"access_token"`
			RefreshToken string `json:"refresh_token"`
		}
		Expect(json.NewDecoder(response.Body).Decode(&answer)).To(Succeed())
		Expect(answer.AccessToken).NotTo(BeEmpty())
		Expect(answer.RefreshToken).NotTo(BeEmpty())

		// skopeo, like docker, keeps a refresh token as the identity token of a login.
		m := newMachine()
		config := encode(map[string]any{"auths": map[string]any{host: map[string]any{"auth": "MDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwOg==", "identitytoken": answer.RefreshToken}}})
		Expect(os.WriteFile(filepath.Join(m.home, "auth.json"), config, 0o600)).To(Succeed())
		m.must(installed("skopeo"), "copy", "--dest-tls-verify=false", "oci:"+newImage().layout()+":"+layoutTag, "docker://"+host+"/oauth-accounts/mine:refreshed")
		Expect(tagDigest("oauth-accounts/mine", "refreshed")).NotTo(BeEmpty())
	})
})

// fetch pulls an image in whichever way the client has.
func (c client) fetch(m *machine, reference string) error {
	GinkgoHelper()
	if c.digest != nil {
		return failure(c.digest(m, reference))
	}
	return c.pull(m, reference, filepath.Join(GinkgoT().TempDir(), "layout"))
}
