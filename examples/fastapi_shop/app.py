"""A FastAPI application that is there already: a shop's users, who come with a token, and their orders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(os.environ.get("DATABASE", "sqlite:///shop.db"))


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(unique=True)


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    item: Mapped[str]


Base.metadata.create_all(engine)


def database() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


Database = Annotated[Session, Depends(database)]


def current_user(session: Database, authorization: Annotated[str, Header()] = "") -> User:
    user = session.scalar(select(User).where(User.token == authorization.removeprefix("Bearer ")))
    if user is None:
        raise HTTPException(401)
    return user


CurrentUser = Annotated[User, Depends(current_user)]


def items_of(session: Session, user_id: int) -> list[str]:
    return list(session.scalars(select(Order.item).where(Order.user_id == user_id).order_by(Order.id)))


app = FastAPI()


@app.get("/orders")
def orders(user: CurrentUser, session: Database) -> list[str]:
    return items_of(session, user.id)


@app.post("/orders", status_code=201)
def order(item: str, user: CurrentUser, session: Database) -> list[str]:
    session.add(Order(user_id=user.id, item=item))
    session.commit()
    return items_of(session, user.id)
