"""The tables of the first release."""

# ruff: noqa: RUF012 (as Django writes them)

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models

import streamchat.adapters.django.fields

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """Makes them."""

    initial = True

    operations = [
        migrations.CreateModel(
            name="Event",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "run_id", "seq", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("run_id", streamchat.adapters.django.fields.ExactField(max_length=191)),
                ("seq", models.BigIntegerField()),
                ("type", streamchat.adapters.django.fields.ExactField(max_length=191)),
                ("data", streamchat.adapters.django.fields.PayloadField()),
                ("private", streamchat.adapters.django.fields.PayloadField(null=True)),
                ("at", models.BigIntegerField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="PostedInput",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "run_id", "kind", "key", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("run_id", streamchat.adapters.django.fields.ExactField(max_length=191)),
                ("kind", streamchat.adapters.django.fields.ExactField(max_length=32)),
                ("key", streamchat.adapters.django.fields.ExactField(max_length=191)),
                ("number", models.IntegerField()),
                ("body", streamchat.adapters.django.fields.PayloadField()),
                ("posted_by", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("at", models.BigIntegerField()),
                ("consumed_at", models.BigIntegerField(null=True)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Run",
            fields=[
                ("number", models.BigAutoField(primary_key=True, serialize=False)),
                ("run_id", streamchat.adapters.django.fields.ExactField(max_length=191, unique=True)),
                ("message_id", streamchat.adapters.django.fields.ExactField(max_length=191)),
                ("parent_run_id", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("principal", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("tenant", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("slot", streamchat.adapters.django.fields.ExactField(max_length=64, null=True, unique=True)),
                ("digest", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("log_version", models.SmallIntegerField()),
                ("created_at", models.BigIntegerField()),
                ("status", streamchat.adapters.django.fields.ExactField(max_length=16)),
                ("ready_at", models.BigIntegerField(null=True)),
                ("ended_at", models.BigIntegerField(null=True)),
                ("updated_at", models.BigIntegerField()),
                ("generation", streamchat.adapters.django.fields.ExactField(max_length=64)),
                ("fence", models.IntegerField()),
                ("owner", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("lease_until", models.BigIntegerField(null=True)),
                ("first_seq", models.BigIntegerField()),
                ("batch_seq", models.BigIntegerField()),
                ("head_seq", models.BigIntegerField()),
                ("log_bytes", models.BigIntegerField()),
                ("posted", models.IntegerField()),
                ("consumed", models.IntegerField()),
            ],
            options={
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Segment",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "run_id", "fence", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("run_id", streamchat.adapters.django.fields.ExactField(max_length=191)),
                ("fence", models.IntegerField()),
                ("generation", streamchat.adapters.django.fields.ExactField(max_length=64)),
                ("first_seq", models.BigIntegerField()),
                ("claimed_at", models.BigIntegerField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Tombstone",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "kind", "id", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("kind", streamchat.adapters.django.fields.ExactField(max_length=16)),
                ("id", streamchat.adapters.django.fields.ExactField(max_length=191)),
                ("deleted_at", models.BigIntegerField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Conversation",
            fields=[
                (
                    "conversation_id",
                    streamchat.adapters.django.fields.ExactField(
                        max_length=191, primary_key=True, serialize=False
                    ),
                ),
                ("owner", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("tenant", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("title", streamchat.adapters.django.fields.PayloadField(null=True)),
                ("active_run_id", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("leaf_id", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("created_at", models.BigIntegerField()),
                ("updated_at", models.BigIntegerField()),
            ],
            options={
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(
                        fields=["owner", "tenant", "updated_at", "conversation_id"], name="streamchat_conv_of"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Note",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "run_id", "name", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("run_id", streamchat.adapters.django.fields.ExactField(max_length=191)),
                ("name", streamchat.adapters.django.fields.ExactField(max_length=191)),
                ("body", streamchat.adapters.django.fields.PayloadField()),
                ("expires_at", models.BigIntegerField()),
            ],
            options={
                "default_permissions": (),
                "indexes": [models.Index(fields=["expires_at"], name="streamchat_note_due")],
            },
        ),
        migrations.CreateModel(
            name="RunRequest",
            fields=[
                (
                    "run",
                    models.OneToOneField(
                        db_column="run_id",
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        primary_key=True,
                        related_name="body",
                        serialize=False,
                        to="streamchat.run",
                        to_field="run_id",
                    ),
                ),
                ("request", streamchat.adapters.django.fields.PayloadField()),
                ("claims", streamchat.adapters.django.fields.PayloadField(null=True)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.AddField(
            model_name="run",
            name="conversation",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="runs",
                to="streamchat.conversation",
            ),
        ),
        migrations.CreateModel(
            name="Message",
            fields=[
                ("number", models.BigAutoField(primary_key=True, serialize=False)),
                ("message_id", streamchat.adapters.django.fields.ExactField(max_length=191, unique=True)),
                ("role", streamchat.adapters.django.fields.ExactField(max_length=16)),
                ("status", streamchat.adapters.django.fields.ExactField(max_length=16)),
                ("kind", streamchat.adapters.django.fields.ExactField(max_length=64)),
                ("content", streamchat.adapters.django.fields.PayloadField()),
                ("private", streamchat.adapters.django.fields.PayloadField(null=True)),
                ("run_id", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("parent_id", streamchat.adapters.django.fields.ExactField(max_length=191, null=True)),
                ("created_at", models.BigIntegerField()),
                (
                    "conversation",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="messages",
                        to="streamchat.conversation",
                    ),
                ),
            ],
            options={
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["conversation", "number"], name="streamchat_message_of"),
                    models.Index(fields=["run_id"], name="streamchat_message_by_run"),
                ],
            },
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["status", "ready_at"], name="streamchat_run_ready"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["conversation", "number"], name="streamchat_run_of"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["principal", "tenant"], name="streamchat_run_by"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["ended_at"], name="streamchat_run_ended"),
        ),
    ]
