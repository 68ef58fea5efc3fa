// Package deploy has only tests. They decode the files in contrib/compose and contrib/kubernetes
// with the libraries of Docker Compose, Kustomize and Kubernetes, and run the containers of these
// files in Linux namespaces. The package is a separate module, so that the hub and the agent do not
// depend on these libraries.
//
// The tests take no image from a registry. The hub's image is the OCI image that internal/release
// makes of the program in build/. In place of PostgreSQL's image, they run Debian's PostgreSQL,
// with the user, the folders and the environment of that image. The tests use no container engine
// and no cluster, so they do not notice if an engine understands a file in another way.
package deploy
