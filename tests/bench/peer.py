"""The service Daybook succeeds, at its fastest: no authentication, no validation beyond JSON, one transaction a write."""

import json
import os
import uuid
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

TABLES = """
create table if not exists items (id uuid primary key, kind text not null, body jsonb not null, at timestamptz not null default now());
create table if not exists audit (id uuid primary key, item_id uuid not null, actor text not null, at timestamptz not null default now());
"""


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.pool = await asyncpg.create_pool(os.environ["PEER_DATABASE_URL"], min_size=16, max_size=32)
    async with app.pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(1)")
            await connection.execute(TABLES)
    yield
    await app.pool.close()


app = FastAPI(lifespan=lifespan)


@app.post("/items", status_code=201)
async def create(request: Request):
    body = await request.json()
    item = uuid.uuid4()
    async with app.pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute("insert into items (id, kind, body) values ($1, $2, $3)", item, body["kind"], json.dumps(body))
            await connection.execute("insert into audit (id, item_id, actor) values ($1, $2, $3)", uuid.uuid4(), item, "someone")
    return JSONResponse({"id": str(item), "kind": body["kind"]}, status_code=201)


@app.get("/items/{item}")
async def show(item: uuid.UUID):
    async with app.pool.acquire() as connection:
        row = await connection.fetchrow("select id, kind, body, at from items where id = $1", item)
    if row is None:
        raise HTTPException(404)
    return {"id": str(row["id"]), "kind": row["kind"], "body": json.loads(row["body"]), "at": row["at"].isoformat()}
