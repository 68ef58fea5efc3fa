-- PostgreSQL's image runs this file when it makes an empty database. The hub's role owns the hub's
-- database and nothing else.
\set password `cat /run/secrets/hub-password`
CREATE ROLE hub LOGIN PASSWORD :'password';
CREATE DATABASE gangway OWNER hub ENCODING 'UTF8' TEMPLATE template0;
